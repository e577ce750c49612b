"""Codes of 2 to 8 bits: their range, the scales that are stored, and the rounding rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import Codes, FloatArray

_SMALLEST_NORMAL_FLOAT16 = 2.0**-14
_LARGEST_FLOAT16 = 65504.0
"""IEEE 754 binary16."""


def levels(bits: int) -> int:
    """The largest code, 2^bits - 1; the smallest is 0.

    Args:
        bits: Width, 2 to 8.

    Returns:
        3 for 2 bits, up to 255 for 8.
    """
    return (1 << bits) - 1


def storable_scale(scale: NDArray[np.float32]) -> FloatArray:
    """The scales as they are stored in the file.

    Args:
        scale: [N], positive.

    Returns:
        The next float16 that is no smaller, so that the range still covers the weights. `scale` itself, in float32,
        where one of them is subnormal in float16 or within 0.1 % of its largest value.
    """
    if scale.min() < _SMALLEST_NORMAL_FLOAT16 or scale.max() > _LARGEST_FLOAT16 * 0.999:
        return scale
    half = scale.astype(np.float16)
    return np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half).astype(np.float16)


def encode(rows: FloatArray, scale: FloatArray, zero_point: Codes, bits: int) -> Codes:
    """Codes of weights: round half to even, add the zero point, saturate.

    Args:
        rows: [N, M].
        scale: [N], used in float32.
        zero_point: [N].
        bits: Width, 2 to 8.

    Returns:
        [N, M], 0..2^bits - 1.

    Source:
        ONNX QuantizeLinear, opset 10 and up.
    """
    step = scale.astype(np.float32)[:, None]
    codes = np.rint(rows / step)
    codes += zero_point.astype(np.float32)[:, None]
    return np.clip(codes, 0, levels(bits), out=codes).astype(np.uint8)
