"""One weight and its scheme -> codes, scales and zero points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.grid import dequantize, effective_grid, from_rows, params_from_rows, to_rows
from mixquant_onnx.integer import encode
from mixquant_onnx.methods import method
from mixquant_onnx.types import FloatArray, Quantized, Scheme, WeightSite


def quantize_weight(site: WeightSite, weight: NDArray[np.generic], scheme: Scheme) -> Quantized:
    """Codes of `weight` (shape of the site) under `scheme`."""
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    rows = to_rows(np.ascontiguousarray(weight, dtype=np.float32), site.layout, grid)
    scale, zero = method(scheme.method).fit(rows, scheme.bits, scheme.symmetric)
    codes = encode(rows, scale, np.broadcast_to(zero, scale.shape), scheme.bits)
    shape, layout = site.shape, site.layout
    return Quantized(
        codes=from_rows(codes, shape, layout, grid),
        scale=params_from_rows(scale, shape, layout, grid),
        zero_point=zero.reshape(1, 1, 1) if zero.size == 1 else params_from_rows(zero, shape, layout, grid),
        scheme=scheme,
        layout=layout,
        dtype=site.dtype,
    )


def dequantized(q: Quantized, dtype: np.dtype[np.generic]) -> FloatArray:
    """The weight that `q` stands for."""
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    return dequantize(q.codes, q.scale, q.zero_point, q.layout, grid, dtype)
