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

    Attributes:
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
        """The nearest level (half to even, then saturated).

        Args:
            values: Weights of any shape.
            scale: Broadcasts against `values`.
            zero_point: Broadcasts against `values`.

        Returns:
            Levels, dequantized, in the shape of `values`.
        """
        codes = np.rint(values / scale) + zero_point
        return np.asarray((np.clip(codes, 0, self.highest) - zero_point) * scale, np.float32)

    def rounded(self) -> Rows:
        """The target rounded to nearest [groups, n, K]."""
        return self.nearest(self.target, self.scale, self.zero_point)

    def loss(self, levels: Rows) -> float:
        """tr((Q - W) M (Q - W)^T): the output error, summed over outputs.

        Args:
            levels: Q [groups, n, K].

        Returns:
            The loss.
        """
        return quadratic_error(levels - self.target, self.matrix)


Rounding = Callable[[Problem], Rows]
"""A rounding method: gives levels [groups, n, K] for a problem."""
