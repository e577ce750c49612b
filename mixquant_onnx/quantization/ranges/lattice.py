"""Weights on a lattice (ternary, binary, quantized before): multiples of a step, which can be stored without loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels, storable_scale

Rows = NDArray[np.float32]
Fit = tuple[FloatArray, Codes]

_TOLERANCE = 0.02
"""Largest distance of a weight from its level, in steps: float32 sums and float16 scales leave under 0.01."""

_LOOKED_AT = 4096
"""Weights of the first row that are inspected first; enough to exclude most tensors. Affects speed."""


def fit(rows: Rows, bits: int, symmetric: bool) -> Fit | None:
    """Scales at which rows on a lattice are stored without loss.

    The step of a row is the smallest difference of its values, 0 among them; each must be a multiple of it.

    Args:
        rows: Weights [N, M].
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        Scale as stored [N] and zero point [N], or [1] when symmetric; None where a row is on no lattice, or `bits` are
        too few for it.
    """
    if not _repeats(rows):
        return None
    step = _steps(rows)
    if step is None:
        return None
    low, high = np.minimum(rows.min(axis=1), 0) / step, np.maximum(rows.max(axis=1), 0) / step
    top = levels(bits)
    middle = (top + 1) // 2
    zero = np.full(len(rows), middle) if symmetric else np.rint(-low).astype(int)
    if (zero + np.rint(high) > top).any() or (zero + np.rint(low) < 0).any():
        return None
    scale = storable_scale(step)
    codes = np.rint(rows / scale.astype(np.float32)[:, None])
    off = np.abs(codes - rows / step[:, None])
    if off.max() > 0.5:
        return None
    points = zero.astype(np.uint8)
    return scale, points[:1] if symmetric else points


def _repeats(rows: Rows) -> bool:
    """Whether the first row that is not all zero has few different values."""
    first = next((row for row in rows[:8] if row.any()), rows[0])[:_LOOKED_AT]
    return len(np.unique(first)) <= min(256, max(2, len(first) // 2))


def _steps(rows: Rows) -> Rows | None:
    """The step of each row; None where a row is on no lattice of at most 256 levels."""
    steps = np.ones(len(rows), np.float32)
    for number, row in enumerate(rows):
        values = np.unique(np.append(row, np.float32(0)))
        if len(values) > 256:
            return None
        if len(values) == 1:
            continue
        gaps = np.diff(values)
        largest = float(np.abs(values).max())
        gaps = gaps[gaps > largest * 1e-4]
        if not len(gaps):
            return None
        step = float(gaps.min())
        count = np.rint(largest / step)
        if count > 255 or count < 1:
            return None
        step = largest / count
        if np.abs(values / step - np.rint(values / step)).max() > _TOLERANCE:
            return None
        steps[number] = step
    return steps
