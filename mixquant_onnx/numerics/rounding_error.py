"""The squared error of rounding to integers, computed while a chunk is in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import FloatArray

CHUNK = 1 << 15
"""Elements processed at once: 128 KiB of float32, so that three buffers fit in a second-level cache. Affects speed
alone.
"""


_ON_GRID = 1e-7
"""Mean squared error, in squared steps, below which float32 rounding of w / scale (up to 2^-24 of an 8-bit code) may
contribute to it. Such weights lie on the grid; their error is computed again against the weights themselves.
"""


_EXTREME = (1e-15, 1e15)
"""Scales beyond which squared errors, up to a hundred million of them summed, leave the normal range of float32."""


def squared_errors(rows: NDArray[np.float32], scales: Sequence[FloatArray]) -> list[float]:
    """Squared error of rounding to nearest, for several scales at once.

    For ranges that cover the rows, so that no code saturates. Every scale is tried while a chunk is in cache; sums over
    chunks are in float64.

    Args:
        rows: [N, M].
        scales: Each [N], or each [1] for one scale of the tensor.

    Returns:
        For each scale the sum over all weights of (w - scale x rint(w / scale))^2.
    """
    steps = [scale.astype(np.float32) for scale in scales]
    if steps[0].size == 1 and rows.size >= CHUNK:
        return _flat_errors(rows.reshape(-1), steps)
    return _rows_errors(rows, steps)


def _flat_errors(flat: NDArray[np.float32], steps: list[NDArray[np.float32]]) -> list[float]:
    inverses = [np.float32(1.0 / float(step[0])) for step in steps]
    totals = [0.0] * len(steps)
    buffers = np.empty((2, CHUNK), np.float32)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        x, y = buffers[0, : part.size], buffers[1, : part.size]
        for k, inverse in enumerate(inverses):
            np.multiply(part, inverse, out=x)
            np.rint(x, out=y)
            np.subtract(x, y, out=x)
            totals[k] += float(np.dot(x, x))
    exact = [k for k, total in enumerate(totals) if total < _ON_GRID * flat.size]
    again = dict(zip(exact, _rows_errors(flat[None], [steps[k] for k in exact]), strict=True)) if exact else {}
    return [
        again.get(k, total * float(step[0]) ** 2) for k, (total, step) in enumerate(zip(totals, steps, strict=True))
    ]


def _buffers(steps: Sequence[NDArray[np.float32]], rows: int, width: int) -> NDArray[Any]:
    low, high = min(float(step.min()) for step in steps), max(float(step.max()) for step in steps)
    wide = low < _EXTREME[0] or high > _EXTREME[1]
    return np.empty((2, rows, width), np.float64 if wide else np.float32)


def _rows_errors(rows: NDArray[np.float32], steps: list[NDArray[np.float32]]) -> list[float]:
    count, width = rows.shape
    columns = [(step[:, None], (1.0 / step).astype(np.float32)[:, None]) for step in steps]
    totals = [0.0] * len(steps)
    across_at_once = min(max(width, 1), CHUNK)
    at_once = max(1, CHUNK // across_at_once)
    buffers = _buffers(steps, at_once, across_at_once)
    for start in range(0, count, at_once):
        part = slice(start, min(start + at_once, count))
        for left in range(0, width, CHUNK):
            values = rows[part, left : left + CHUNK]
            x, y = (b[: values.shape[0], : values.shape[1]] for b in buffers)
            for k, (step, inverse) in enumerate(columns):
                np.multiply(values, inverse[part], out=x)
                np.rint(x, out=x)
                np.multiply(x, step[part], out=y)
                np.subtract(values, y, out=x)
                flat = x.reshape(-1)
                totals[k] += float(np.dot(flat, flat))
    return totals


def row_errors(
    rows: NDArray[np.float32],
    scale: FloatArray,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Squared error of each row with saturation.

    Args:
        rows: [N, M].
        scale: [N].
        lowest: [N], lower bound of rint(w / scale): minus the zero point.
        highest: [N], upper bound: the largest code minus the zero point.

    Returns:
        [N], in squared units of the weights.
    """
    count, width = rows.shape
    step = scale.astype(np.float32)[:, None]
    inverse = (1.0 / step).astype(np.float32)
    result = np.zeros(count)
    across_at_once = min(max(width, 1), CHUNK)
    at_once = max(1, CHUNK // across_at_once)
    buffers = _buffers([step], at_once, across_at_once)
    for top in range(0, count, at_once):
        part = slice(top, min(top + at_once, count))
        for left in range(0, width, CHUNK):
            values = rows[part, left : left + CHUNK]
            x, y = (b[: values.shape[0], : values.shape[1]] for b in buffers)
            np.multiply(values, inverse[part], out=x)
            np.rint(x, out=y)
            np.maximum(y, lowest[part, None], out=y)
            np.minimum(y, highest[part, None], out=y)
            np.multiply(y, step[part], out=y)
            np.subtract(values, y, out=x)
            result[part] += np.einsum("ij,ij->i", x, x)
    return result
