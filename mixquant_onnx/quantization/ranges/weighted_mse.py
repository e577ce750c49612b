"""Ranges that minimise the squared error weighted by the input's second moment, for calibrated methods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels, storable_scale
from mixquant_onnx.numerics.rounding_error import CHUNK
from mixquant_onnx.quantization.ranges.minmax import row_range, scale_of, zero_point_of

_STEPS = 12
"""Steps in which both ends of the min-max range shrink together."""

_ROUNDS = 3
"""Rounds of neighbours at each end, each at half the distance."""

_SMALLEST = (0.3, 0.45, 0.55, 0.65, 0.75, 0.82, 0.88)
"""For 2..8 bits: the smallest share of the min-max range that is tried."""


def fit(
    rows: NDArray[np.float32], weights: NDArray[np.float32], bits: int, symmetric: bool, rounds: int | None = None
) -> tuple[FloatArray, Codes]:
    """Ranges with the least weighted squared error found: min-max is shrunk as a whole, then at each end.

    Args:
        rows: Weights of the layer [N, M].
        weights: Factors of their squared errors [N, M], at least 0.
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.
        rounds: Rounds of neighbours at each end; None for `_ROUNDS`. Fewer are enough to compare widths.

    Returns:
        Scale as stored [N] and zero point [N], or [1] when symmetric.
    """
    turns = 0 if symmetric else _ROUNDS if rounds is None else rounds
    at_once = max(1, 8 * CHUNK // max(rows.shape[1], 1))
    parts = [
        _fit(rows[start : start + at_once], weights[start : start + at_once], bits, symmetric, turns)
        for start in range(0, len(rows), at_once)
    ]
    low, high = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    scale = storable_scale(scale_of((low, high), bits, symmetric))
    return scale, zero_point_of((low, high), scale, bits, symmetric)


def _fit(
    rows: NDArray[np.float32], weights: NDArray[np.float32], bits: int, symmetric: bool, rounds: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    full = row_range(rows)
    best = [np.ones(len(rows), np.float32), np.ones(len(rows), np.float32)]
    least = np.full(len(rows), np.inf)

    def consider(low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        nonlocal least
        low, high = np.clip(low, 0.02, 1), np.clip(high, 0.02, 1)
        span = (full[0] * low, full[1] * high)
        scale = storable_scale(scale_of(span, bits, symmetric))
        step = scale.astype(np.float32)[:, None]
        zero = zero_point_of(span, scale, bits, symmetric).astype(np.float32)[:, None]
        error = np.rint(rows / step)
        np.clip(error, -zero, levels(bits) - zero, out=error)
        error *= step
        error -= rows
        found = np.einsum("ij,ij,ij->i", error, error, weights)
        better = found < least
        best[0][better], best[1][better], least = low[better], high[better], np.where(better, found, least)

    smallest = _SMALLEST[bits - 2]
    for share in np.linspace(1, smallest, _STEPS + 1):
        consider(np.full_like(best[0], share), np.full_like(best[1], share))
    step = np.float32((1 - smallest) / _STEPS)
    for turn in range(rounds):
        size = step / np.float32(2**turn)
        for low, high in ((-size, 0), (size, 0), (0, -size), (0, size)):
            consider(best[0] + np.float32(low), best[1] + np.float32(high))
    return full[0] * best[0], full[1] * best[1]
