"""The common form of a rounding problem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.quadratic import quadratic_error

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """Weights `target` [groups, n, K] to be levels `scale` x (code - `zero_point`), codes 0..`highest`.

    `scale` and `zero_point` broadcast against target; `matrix` [groups, K, K] is positive definite.
    """

    target: Rows
    scale: Rows
    zero_point: Rows
    highest: int
    matrix: Rows

    def nearest(self, values: Rows, scale: Rows, zero_point: Rows) -> Rows:
        """The level nearest to each of `values` (round half to even, then saturate)."""
        codes = np.rint(values / scale) + zero_point
        return np.asarray((np.clip(codes, 0, self.highest) - zero_point) * scale, np.float32)

    def rounded(self) -> Rows:
        return self.nearest(self.target, self.scale, self.zero_point)

    def loss(self, levels: Rows) -> float:
        """tr((Q - W) M (Q - W)^T)."""
        return quadratic_error(levels - self.target, self.matrix)
