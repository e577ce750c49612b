"""How far the second moments of a weight's inputs are to be trusted, found on samples held back.

Positions of one image or tokens of one text are no independent samples, and how much less they tell differs from model
to model: what is best for a language model ruins a CNN calibrated on 63 photos by 0.8 dB, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixquant_onnx.second_moments import SecondMoments
from mixquant_onnx.solvers import gptq
from mixquant_onnx.solvers.problem import Problem, Rows

_FACTORS = (1.0, 4.0, 1 / 8)
"""As how many independent samples each may count; the first where there is nothing to choose by."""

_NO_DOUBT = 0.05
"""Share of the moments dropped at the least of `_FACTORS`, below which nothing is tried."""

_MOST_ROWS = 64
"""Outputs of a layer that are quantized to find out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Posed:
    """Weights `rows` [groups, n, K] and the grid that their levels shall be on, as in Problem."""

    rows: Rows
    scale: Rows
    zero_point: Rows
    highest: int

    def problem(self, inputs: SecondMoments) -> Problem:
        """That of repeating the float output on `inputs`."""
        return Problem(
            target=inputs.target(self.rows),
            scale=self.scale,
            zero_point=self.zero_point,
            highest=self.highest,
            matrix=inputs.shrunk(),
        )

    def some(self) -> Posed:
        """The same for every n-th row of each group."""
        every = max(1, self.rows.shape[0] * self.rows.shape[1] // _MOST_ROWS)
        wide = self.rows.shape
        parts = (np.broadcast_to(part, wide)[:, ::every] for part in (self.rows, self.scale, self.zero_point))
        rows, scale, zero_point = parts
        return Posed(rows=rows, scale=scale, zero_point=zero_point, highest=self.highest)


def trust(posed: Posed, inputs: SecondMoments) -> float:
    """As how many independent samples each of `inputs` counts: what does best on one half, learned from the other."""
    if inputs.halves is None or inputs.width < _NO_DOUBT * inputs.samples * min(_FACTORS):
        return _FACTORS[0]
    fit, held = inputs.halves
    some = posed.some()
    losses = {}
    for factor in _FACTORS:
        levels = gptq.solve(some.problem(replace(fit, trust=factor)))
        losses[factor] = held.output_loss(some.rows, levels)
    return min(losses, key=lambda factor: losses[factor])
