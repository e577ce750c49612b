"""Ranges that minimise the squared error: min-max shrunk first as a whole, then at each end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.integer import levels, row_errors, storable_scale
from mixquant_onnx.methods.minmax import Range, row_range, scale_of, zero_point_of
from mixquant_onnx.types import Codes, FloatArray

SAMPLE = 1 << 14
"""Rows longer than this are searched on every n-th weight; the error that is reported is of all of them."""

_STEPS = 12
"""Sizes of the whole range that are tried, evenly from the smallest worth it to min-max."""

_ROUNDS = 3

Fit = tuple[FloatArray, Codes, NDArray[np.float64]]
"""Scale as stored, zero point, and squared error of each row."""


def _smallest(bits: int) -> float:
    """The smallest share of the min-max range worth a look: clipping pays where steps are coarse."""
    return (0.3, 0.45, 0.55, 0.65, 0.75, 0.82, 0.88)[bits - 2]


def _evaluate(rows: NDArray[np.float32], span: Range, bits: int, symmetric: bool) -> Fit:
    scale = storable_scale(scale_of(span, bits, symmetric))
    zero = zero_point_of(span, scale, bits, symmetric)
    low, high = code_bounds(zero, bits, rows.shape[0])
    return scale, zero, row_errors(rows, scale, low, high)


def code_bounds(zero: Codes, bits: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest of code - zero point, for each of `count` rows."""
    offset = np.broadcast_to(zero.astype(np.float32), (count,))
    return -offset, np.float32(levels(bits)) - offset


def _search(rows: NDArray[np.float32], bits: int, symmetric: bool) -> Range:
    """The best range found for each row [N, M]."""
    if rows.shape[1] > SAMPLE:
        rows = np.ascontiguousarray(rows[:, :: rows.shape[1] // SAMPLE])
    full = row_range(rows)
    best = (np.ones(rows.shape[0], np.float32), np.ones(rows.shape[0], np.float32))
    error = _evaluate(rows, full, bits, symmetric)[2]

    def consider(low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        nonlocal error
        low, high = np.clip(low, 0.02, 1), np.clip(high, 0.02, 1)
        found = _evaluate(rows, (full[0] * low, full[1] * high), bits, symmetric)[2]
        better = found < error
        best[0][better], best[1][better], error = low[better], high[better], np.where(better, found, error)

    for share in np.linspace(_smallest(bits), 1, _STEPS, endpoint=False):
        consider(np.full_like(best[0], share), np.full_like(best[1], share))
    if symmetric:
        return full[0] * best[0], full[1] * best[1]
    step = np.float32((1 - _smallest(bits)) / _STEPS)
    for turn in range(_ROUNDS):
        size = step / np.float32(2**turn)
        for low, high in ((-size, 0), (size, 0), (0, -size), (0, size)):
            consider(best[0] + np.float32(low), best[1] + np.float32(high))
    return full[0] * best[0], full[1] * best[1]


def _fit(rows: NDArray[np.float32], bits: int, symmetric: bool) -> Fit:
    return _evaluate(rows, _search(rows, bits, symmetric), bits, symmetric)


def fit(rows: NDArray[np.float32], bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """Scale (as stored) and zero point of each row [N, M]."""
    scale, zero, _ = _fit(rows, bits, symmetric)
    return scale, zero


def errors(rows: NDArray[np.float32], bits: Sequence[int], symmetric: bool) -> list[float]:
    """Sum of squared errors of `rows` at each of `bits`."""
    return [float(_fit(rows, b, symmetric)[2].sum()) for b in bits]
