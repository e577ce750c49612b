"""Integer ranges of 2..8 bits, the one rounding rule, and the squared error of rounding, in cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.types import Codes, FloatArray

CHUNK = 1 << 15
"""Elements worked on at once: 128 KiB of float32, so that three buffers stay in a second-level cache."""

_SMALLEST_NORMAL_FLOAT16 = 2.0**-14
_LARGEST_FLOAT16 = 65504.0


def levels(bits: int) -> int:
    """The largest code."""
    return (1 << bits) - 1


def storable_scale(scale: NDArray[np.float32]) -> FloatArray:
    """`scale` rounded up to float16, so that the range still covers; float32 where float16 is too coarse."""
    if scale.min() < _SMALLEST_NORMAL_FLOAT16 or scale.max() > _LARGEST_FLOAT16 * 0.999:
        return scale
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half).astype(np.float16)


def encode(rows: FloatArray, scale: FloatArray, zero_point: Codes, bits: int) -> Codes:
    """Codes of `rows` [N, M], scale and zero point [N]: round half to even, then saturate (ONNX QuantizeLinear)."""
    step = scale.astype(np.float32)[:, None]
    codes = np.rint(rows / step)
    codes += zero_point.astype(np.float32)[:, None]
    return np.clip(codes, 0, levels(bits), out=codes).astype(np.uint8)


def squared_errors(rows: NDArray[np.float32], scales: Sequence[FloatArray]) -> list[float]:
    """For each of `scales` ([N] or [1]): the sum over `rows` [N, M] of (row - scale x rint(row / scale))^2.

    For ranges that cover the rows, so that no code saturates. Every scale is tried while a chunk is in cache;
    float64 across chunks.
    """
    steps = [scale.astype(np.float32) for scale in scales]
    return _flat_errors(rows.reshape(-1), steps) if steps[0].size == 1 else _rows_errors(rows, steps)


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
    return [total * float(step[0]) ** 2 for total, step in zip(totals, steps, strict=True)]


def _rows_errors(rows: NDArray[np.float32], steps: list[NDArray[np.float32]]) -> list[float]:
    count, width = rows.shape
    columns = [(step[:, None], (1.0 / step).astype(np.float32)[:, None]) for step in steps]
    totals = [0.0] * len(steps)
    at_once = max(1, CHUNK // max(width, 1))
    buffers = np.empty((2, at_once, width), np.float32)
    for start in range(0, count, at_once):
        part = slice(start, min(start + at_once, count))
        values = rows[part]
        x, y = buffers[0, : len(values)], buffers[1, : len(values)]
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
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Squared error of each row [N, M] when rint(row / scale) is saturated to lowest..highest (each [N]).

    `weights` [M] or [N, M] weighs the squares.
    """
    count, width = rows.shape
    step = scale.astype(np.float32)
    inverse = (1.0 / step)[:, None]
    result = np.zeros(count)
    at_once = max(1, CHUNK // max(min(width, CHUNK), 1))
    buffers = np.empty((2, at_once, min(width, CHUNK)), np.float32)
    for top in range(0, count, at_once):
        part = slice(top, min(top + at_once, count))
        for left in range(0, width, CHUNK):
            across = slice(left, min(left + CHUNK, width))
            x = buffers[0, : part.stop - top, : across.stop - left]
            y = buffers[1, : part.stop - top, : across.stop - left]
            np.multiply(rows[part, across], inverse[part], out=x)
            np.rint(x, out=y)
            np.maximum(y, lowest[part, None], out=y)
            np.minimum(y, highest[part, None], out=y)
            np.subtract(x, y, out=x)
            if weights is None:
                result[part] += np.einsum("ij,ij->i", x, x)
            else:
                np.multiply(x, x, out=x)
                result[part] += np.einsum("ij,ij->i", x, np.broadcast_to(_slice(weights, part, across), x.shape))
    return result * step.astype(np.float64) ** 2


def _slice(weights: NDArray[np.float32], part: slice, across: slice) -> NDArray[np.float32]:
    return weights[across] if weights.ndim == 1 else weights[part, across]
