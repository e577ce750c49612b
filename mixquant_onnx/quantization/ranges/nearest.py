"""The squared error of rounding to nearest with given scales and zero points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels
from mixquant_onnx.numerics.rounding_error import row_errors

Rows = NDArray[np.float32]


def code_bounds(zero: Codes, bits: int, count: int) -> tuple[Rows, Rows]:
    """Lowest and highest of code - zero point.

    Args:
        zero: Zero points [count], or [1] for all rows.
        bits: Width of the codes, 2 to 8.
        count: Number of rows.

    Returns:
        Two arrays [count].
    """
    offset = np.broadcast_to(zero.astype(np.float32), (count,))
    return -offset, np.float32(levels(bits)) - offset


def nearest_error(rows: Rows, scale: FloatArray, zero: Codes, bits: int) -> float:
    """Sum of squared errors of rows rounded to nearest.

    Args:
        rows: Weights [N, M].
        scale: [N].
        zero: Zero points [N], or [1] for all rows.
        bits: Width of the codes, 2 to 8.

    Returns:
        The sum over all weights.
    """
    return float(row_errors(rows, scale, *code_bounds(zero, bits, len(rows))).sum())
