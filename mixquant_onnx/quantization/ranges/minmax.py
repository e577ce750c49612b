"""Min-max ranges: vanilla asymmetric (or symmetric) quantization, extended to contain 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels, storable_scale
from mixquant_onnx.numerics.rounding_error import squared_errors

Range = tuple[NDArray[np.float32], NDArray[np.float32]]


def row_range(rows: NDArray[np.float32]) -> Range:
    """(lowest, highest) of each row, extended to contain 0.

    Args:
        rows: Weights [N, M].

    Returns:
        Two arrays [N].
    """
    zero = np.float32(0)
    return np.minimum(rows.min(axis=1), zero), np.maximum(rows.max(axis=1), zero)


def scale_of(span: Range, bits: int, symmetric: bool) -> NDArray[np.float32]:
    """Scale of each row.

    Args:
        span: (lowest, highest) of each row [N].
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        [N]; 1 where the row is all zeros.
    """
    low, high = (bound.astype(np.float64) for bound in span)
    exact = np.maximum(-low, high) / ((1 << (bits - 1)) - 1) if symmetric else (high - low) / levels(bits)
    step = exact.astype(np.float32)
    step[step < np.finfo(np.float32).tiny] = 1.0
    return step


def zero_point_of(span: Range, scale: FloatArray, bits: int, symmetric: bool) -> Codes:
    """Zero point of each row.

    Args:
        span: (lowest, highest) of each row [N].
        scale: [N], as stored.
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        [N]; when symmetric, [1] with the value 2^(bits - 1).
    """
    if symmetric:
        return np.array([1 << (bits - 1)], np.uint8)
    zero = np.rint(-span[0] / scale.astype(np.float32))
    return np.clip(zero, 0, levels(bits)).astype(np.uint8)


def fit(rows: NDArray[np.float32], bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """Ranges from the least to the greatest weight.

    Args:
        rows: Weights [N, M].
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        Scale as stored [N] and zero point [N], or [1] when symmetric.
    """
    span = row_range(rows)
    scale = storable_scale(scale_of(span, bits, symmetric))
    return scale, zero_point_of(span, scale, bits, symmetric)


def errors(rows: NDArray[np.float32], bits: Sequence[int], symmetric: bool) -> list[float]:
    """Sum of squared errors of min-max at several widths: one pass for the ranges, one per width.

    Args:
        rows: Weights [N, M].
        bits: Widths of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        One sum over all weights for each of `bits`.
    """
    span = row_range(rows)
    return squared_errors(rows, [storable_scale(scale_of(span, b, symmetric)) for b in bits])


def wide_scales(rows: NDArray[np.float32], bits: Sequence[int], symmetric: bool) -> list[bool]:
    """Whether `rows` have a scale that float16 cannot hold, at each of `bits`."""
    span = row_range(rows)
    return [storable_scale(scale_of(span, b, symmetric)).dtype == np.float32 for b in bits]


def baseline_error(tensor: NDArray[np.float32]) -> float:
    """Sum of squared errors of plain int8, the baseline of QEM: asymmetric, one float32 scale for the tensor.

    Args:
        tensor: The weight, of any shape.

    Returns:
        The sum over all weights.
    """
    rows = tensor.reshape(1, -1)
    return squared_errors(rows, [scale_of(row_range(rows), 8, False)])[0]
