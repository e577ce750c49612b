"""How far the second moments of a weight's inputs are to be trusted, found on samples held back.

Positions of one image or tokens of one text are no independent samples, and how much less they tell differs from model
to model: what is best for a language model ruins a CNN calibrated on 63 photos by 0.8 dB, and the other way round.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_FACTORS = (1.0, 4.0, 1 / 8)
"""As how many independent samples each may count; the first where there is nothing to choose by."""

_NO_DOUBT = 0.05
"""Share of the moments dropped at the least of `_FACTORS`, below which nothing is tried."""

_MOST_ROWS = 64
"""Outputs of a layer that are quantized to find out."""


def trusted(problem: Problem, rows: Rows, inputs: SecondMoments) -> Problem:
    """`problem`, of repeating on `inputs` what the weights `rows` [groups, n, K] gave, with `inputs` trusted as far as
    does best."""
    factor = trust(problem, rows, inputs)
    return problem if factor == inputs.trust else posed(problem, rows, replace(inputs, trust=factor))


def posed(problem: Problem, rows: Rows, inputs: SecondMoments) -> Problem:
    """`problem` on the same grid, for `inputs`."""
    return replace(problem, target=inputs.target(rows), matrix=inputs.shrunk())


def trust(problem: Problem, rows: Rows, inputs: SecondMoments) -> float:
    """As how many independent samples each of `inputs` counts: what does best on one half, learned from the other."""
    if inputs.halves is None or inputs.width < _NO_DOUBT * inputs.samples * min(_FACTORS):
        return inputs.trust
    fit, held = inputs.halves
    every = max(1, rows.shape[0] * rows.shape[1] // _MOST_ROWS)
    some = rows[:, ::every]
    scale, zero = (np.broadcast_to(part, rows.shape)[:, ::every] for part in (problem.scale, problem.zero_point))
    fewer = replace(problem, scale=scale, zero_point=zero)
    losses = {}
    for factor in _FACTORS:
        levels = gptq.solve(posed(fewer, some, replace(fit, trust=factor)))
        losses[factor] = held.output_loss(some, levels)
    return min(losses, key=lambda factor: losses[factor])
