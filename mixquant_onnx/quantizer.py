"""One weight and its scheme -> codes, scales and zero points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.grid import dequantize, effective_grid, expand_params, from_rows, params_from_rows, to_rows
from mixquant_onnx.integer import encode, levels
from mixquant_onnx.methods import method
from mixquant_onnx.rounding import Moments, compensate
from mixquant_onnx.types import Codes, FloatArray, Grid, Quantized, Scheme, WeightSite

_OUTPUTS = Grid(per="channel")


def quantize_weight(
    site: WeightSite,
    weight: NDArray[np.generic],
    scheme: Scheme,
    moments: Moments | None = None,
    limit: float = float("inf"),
) -> Quantized:
    """Codes of `weight` (shape of the site) under `scheme`.

    With `moments` of its input, rounded so that the output keeps its mean, as long as the QE stays at most
    `limit`; else rounded to nearest.
    """
    nearest = _nearest(site, weight, scheme)
    if moments is None:
        return nearest
    better = _compensated(nearest, weight, moments)
    return better if quantization_error(better, weight) <= limit else nearest


def quantization_error(q: Quantized, weight: NDArray[np.generic]) -> float:
    """QE: mean squared error between `weight` and its dequantized codes, float64."""
    difference = np.asarray(weight, np.float32) - dequantized(q, np.dtype(np.float32))
    return float(np.mean(np.square(difference, dtype=np.float64)))


def _nearest(site: WeightSite, weight: NDArray[np.generic], scheme: Scheme) -> Quantized:
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    rows = to_rows(np.ascontiguousarray(weight, dtype=np.float32), site.layout, grid)
    scale, zero = method(scheme.method).fit(rows, scheme.bits, scheme.symmetric)
    if site.dtype == "float16":
        scale = _within_float16(scale, zero, scheme.bits)
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


def _within_float16(scale: FloatArray, zero: Codes, bits: int) -> FloatArray:
    """`scale`, lowered where the largest level would be infinite as float16."""
    offset = zero.astype(np.float32)
    furthest = np.maximum(offset, levels(bits) - offset)
    top = np.float64(np.finfo(np.float16).max)
    ceiling = np.asarray(top / furthest).astype(scale.dtype)
    below = np.nextafter(ceiling, scale.dtype.type(0))
    return np.asarray(np.minimum(scale, np.where(ceiling.astype(np.float64) * furthest > top, below, ceiling)))


def _compensated(q: Quantized, weight: NDArray[np.generic], moments: Moments) -> Quantized:
    """Rows here are outputs of the layer, whatever the granularity of the scales."""
    shape, layout = q.codes.shape, q.layout
    grid = effective_grid(shape, layout, q.scheme.grid)

    def as_rows(params: FloatArray) -> FloatArray:
        expanded = expand_params(params, shape, layout, grid).astype(np.float32)
        return to_rows(np.broadcast_to(expanded, shape), layout, _OUTPUTS)

    rows = to_rows(np.ascontiguousarray(weight, dtype=np.float32), layout, _OUTPUTS)
    codes = compensate(
        rows,
        to_rows(q.codes, layout, _OUTPUTS),
        as_rows(q.scale),
        as_rows(q.zero_point),
        levels(q.scheme.bits),
        moments,
    )
    return replace(q, codes=from_rows(codes, shape, layout, _OUTPUTS))


def dequantized(q: Quantized, dtype: np.dtype[np.generic]) -> FloatArray:
    """The weight that `q` stands for."""
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    return dequantize(q.codes, q.scale, q.zero_point, q.layout, grid, dtype)
