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
        highest: The highest code, 2^bits - 1; the lowest is 0. An array [1, n, 1] where rows differ in width.
        matrix: M = E[x x^T] [groups, K, K], positive definite.
    """

    target: Rows
    scale: Rows
    zero_point: Rows
    highest: int | Rows
    matrix: Rows

    @staticmethod
    def nearest(values: Rows, scale: Rows, zero_point: Rows, highest: int | Rows) -> Rows:
        """The nearest level (half to even, then saturated).

        Args:
            values: Weights of any shape.
            scale: Broadcasts against `values`.
            zero_point: Broadcasts against `values`.
            highest: Broadcasts against `values`.

        Returns:
            Levels, dequantized, in the shape of `values`.
        """
        found = np.rint(values / scale)
        found += zero_point
        np.maximum(found, 0, out=found)  # np.clip takes three times as long for a column
        np.minimum(found, highest, out=found)
        found -= zero_point
        found *= scale
        return np.asarray(found, np.float32)

    def rounded(self) -> Rows:
        """The target rounded to nearest [groups, n, K]."""
        return self.nearest(self.target, self.scale, self.zero_point, self.highest)

    def columns(self, values: Rows, order: NDArray[np.intp] | None = None) -> Rows:
        """Values that broadcast against the target, column by column: solvers run along K.

        Args:
            values: [groups, n, K], or with K = 1.
            order: Order of the columns; None for that of the weight.

        Returns:
            [K, groups, n] or [1, groups, n], contiguous.
        """
        full = np.broadcast_to(values, (*self.target.shape[:2], values.shape[-1]))
        turned = full.transpose(2, 0, 1)
        return np.ascontiguousarray(turned if order is None or len(turned) == 1 else turned[order])

    @property
    def column_highest(self) -> int | Rows:
        """`highest` for a column [groups, n]."""
        return self.highest if isinstance(self.highest, int) else self.highest[:, :, 0]

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
