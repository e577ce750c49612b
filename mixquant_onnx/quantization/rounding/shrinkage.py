"""Shrinkage of second moments, chosen by cross-validation between two halves of the data.

Positions of one image or tokens of one text are not independent samples, and the number of independent ones differs
between models: the best value for a language model costs a CNN calibrated on 63 photos 0.8 dB, and vice versa.
"""

from __future__ import annotations

from dataclasses import replace

from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_SAMPLE_WEIGHTS = (1.0, 4.0, 1 / 8)
"""Candidates: the number of independent samples that each sample counts as; the first wins a tie. One value for all
models would cost up to 0.8 dB (docs/research/accuracy.md).
"""

_NO_SHRINKAGE = 0.05
"""Shrinkage at the least of `_SAMPLE_WEIGHTS`, below which nothing is tried: all candidates would give nearly the same
codes.
"""

_MOST_ROWS = 64
"""Outputs of a layer that are quantized to compare the candidates: bounds time."""


def with_best_shrinkage(problem: Problem, rows: Rows, inputs: SecondMoments) -> Problem:
    """Replace the shrinkage of a problem by the best candidate.

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
    """The same rounding problem for other statistics of the inputs.

    Args:
        problem: Gives scales and zero points.
        rows: The float weights [groups, n, K].
        inputs: Second moments.

    Returns:
        `problem` with another target and matrix.
    """
    return replace(problem, target=inputs.target(rows), matrix=inputs.shrunk())


def is_to_choose(inputs: SecondMoments) -> bool:
    """Whether there are halves to choose by, and so few samples that the choice matters.

    Args:
        inputs: Second moments.

    Returns:
        False where `best_sample_weight` would leave that of `inputs`.
    """
    least = inputs.samples * min(_SAMPLE_WEIGHTS)
    return inputs.halves is not None and inputs.width >= _NO_SHRINKAGE * least


def best_sample_weight(problem: Problem, rows: Rows, inputs: SecondMoments) -> float:
    """Number of independent samples that each sample should count as, by the least error across halves.

    Each candidate quantizes some rows on one half of the data and is evaluated on the other.

    Args:
        problem: The rounding of `rows` for `inputs`.
        rows: The float weights [groups, n, K].
        inputs: Second moments.

    Returns:
        One of `_SAMPLE_WEIGHTS`; that of `inputs` where there are no halves, or enough samples that it does not matter.
    """
    if inputs.halves is None or not is_to_choose(inputs):
        return inputs.sample_weight
    fit, held = inputs.halves
    every = max(1, rows.shape[0] * rows.shape[1] // _MOST_ROWS)
    some = rows[:, ::every]
    scale, zero = problem.scale[:, ::every], problem.zero_point[:, ::every]
    fewer = replace(problem, scale=scale, zero_point=zero)
    losses = {}
    for weight in _SAMPLE_WEIGHTS:
        levels = gptq.solve(for_inputs(fewer, some, replace(fit, sample_weight=weight)))
        losses[weight] = held.output_loss(some, levels)
    return min(losses, key=lambda weight: losses[weight])
