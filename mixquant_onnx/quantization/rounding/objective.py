"""The common form of a rounding problem: a layer's mean squared output error over codes on given scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.quadratic import quadratic_error

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """Find levels Q = scale x (code - zero point) that minimise tr((Q - W) M (Q - W)^T).

    Args:
        target: The weights W [groups, n, K].
        scale: Broadcasts against `target`.
        zero_point: Broadcasts against `target`.
        highest: The highest code, 2^bits - 1; the lowest is 0.
        matrix: M = E[x x^T] [groups, K, K], positive definite.
    """

    target: Rows
    scale: Rows
    zero_point: Rows
    highest: int
    matrix: Rows

    def nearest(self, values: Rows, scale: Rows, zero_point: Rows) -> Rows:
        """The level nearest to each of `values`, which broadcasts with both others (half to even, then saturated)."""
        codes = np.rint(values / scale) + zero_point
        return np.asarray((np.clip(codes, 0, self.highest) - zero_point) * scale, np.float32)

    def rounded(self) -> Rows:
        """The target rounded to nearest [groups, n, K]."""
        return self.nearest(self.target, self.scale, self.zero_point)

    def loss(self, levels: Rows) -> float:
        """tr((Q - W) M (Q - W)^T) of `levels` Q [groups, n, K]: the output error, summed over outputs."""
        return quadratic_error(levels - self.target, self.matrix)


Rounding = Callable[[Problem], Rows]
"""What a rounding method is: the levels [groups, n, K] of a problem."""
