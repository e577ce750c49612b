"""Integer ranges of 2..8 bits, the one rounding rule, and the squared error of rounding, in cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray

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
