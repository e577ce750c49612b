"""How strongly the second moments of a layer's inputs are shrunk, chosen by cross-validation between two halves.

Positions of one image or tokens of one text are not independent samples, and how much less they tell differs from model
to model: what is best for a language model costs a CNN calibrated on 63 photos 0.8 dB, and the reverse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_SAMPLE_WEIGHTS = (1.0, 4.0, 1 / 8)
"""Candidates: as how many independent samples each sample counts; the first wins a tie. One for all models would cost
up to 0.8 dB (docs/accuracy.md)."""

_NO_SHRINKAGE = 0.05
"""Share of the moments dropped at the least of `_SAMPLE_WEIGHTS`, below which nothing is tried: all would give nearly
the same codes."""

_MOST_ROWS = 64
"""Outputs of a layer that are quantized to compare the candidates: a matter of time."""


def with_best_shrinkage(problem: Problem, rows: Rows, inputs: SecondMoments) -> Problem:
    """`problem` with the shrinkage of its inputs' second moments that does best.

    Args:
        problem: The rounding of `rows` for `inputs`.
        rows: The float weights [groups, n, K].
        inputs: Second moments, with halves where they can be cross-validated.

    Returns:
        `problem`, or one with another matrix and target.
    """
    best = best_sample_weight(problem, rows, inputs)
    if best == inputs.sample_weight:
        return problem
    return for_inputs(problem, rows, replace(inputs, sample_weight=best))


def for_inputs(problem: Problem, rows: Rows, inputs: SecondMoments) -> Problem:
    """`problem`, the rounding of the float weights `rows` [groups, n, K], restated for `inputs`; the same scales."""
    return replace(problem, target=inputs.target(rows), matrix=inputs.shrunk())


def best_sample_weight(problem: Problem, rows: Rows, inputs: SecondMoments) -> float:
    """As how many independent samples each sample should count: the weight with the least error across halves.

    Each candidate quantizes some rows on one half of the data and is judged on the other.

    Args:
        problem: The rounding of `rows` for `inputs`.
        rows: The float weights [groups, n, K].
        inputs: Second moments.

    Returns:
        One of `_SAMPLE_WEIGHTS`; that of `inputs` where there are no halves, or samples enough that it does not matter.
    """
    least = inputs.samples * min(_SAMPLE_WEIGHTS)
    if inputs.halves is None or inputs.width < _NO_SHRINKAGE * least:
        return inputs.sample_weight
    fit, held = inputs.halves
    every = max(1, rows.shape[0] * rows.shape[1] // _MOST_ROWS)
    some = rows[:, ::every]
    scale, zero = (np.broadcast_to(part, rows.shape)[:, ::every] for part in (problem.scale, problem.zero_point))
    fewer = replace(problem, scale=scale, zero_point=zero)
    losses = {}
    for weight in _SAMPLE_WEIGHTS:
        levels = gptq.solve(for_inputs(fewer, some, replace(fit, sample_weight=weight)))
        losses[weight] = held.output_loss(some, levels)
    return min(losses, key=lambda weight: losses[weight])
