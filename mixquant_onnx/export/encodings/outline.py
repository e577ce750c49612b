"""Shapes of a weight under a scheme, without quantizing it, and the size of its codes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixquant_onnx.export.encodings.bit_planes import packed_bytes
from mixquant_onnx.export.encodings.packed_zero_points import stored_bytes
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.rows import effective_grid, params_shape
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme


def nbytes_of(site: WeightTensor, scheme: Scheme) -> int:
    """Size of a weight under a scheme, without names and nodes.

    Args:
        site: The weight.
        scheme: How it would be quantized.

    Returns:
        Bytes of codes, scales (float16) and zero points.
    """
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    params = int(np.prod(params_shape(site.shape, site.layout, grid)))
    zeros = 1 if scheme.symmetric else stored_bytes(params, scheme.bits)
    return packed_bytes(site.elements, scheme.bits) + 2 * params + zeros


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outline(QuantizedTensor):
    """A `QuantizedTensor` of which only the shapes are known. Its encoding has sizes and no data."""


def outline(site: WeightTensor, scheme: Scheme, wide_scales: bool = False) -> Outline:
    """The shapes of a weight under a scheme.

    Args:
        site: The weight.
        scheme: How it would be quantized.
        wide_scales: Whether scales are float32, because float16 cannot represent them.

    Returns:
        Arrays of zeros that take no memory.
    """
    params = params_shape(site.shape, site.layout, effective_grid(site.shape, site.layout, scheme.grid))
    return Outline(
        codes=np.broadcast_to(np.uint8(0), site.shape),
        scale=np.broadcast_to(np.float32(0) if wide_scales else np.float16(0), params),
        zero_point=np.broadcast_to(np.uint8(0), (1, 1, 1) if scheme.symmetric else params),
        scheme=scheme,
        layout=site.layout,
        dtype=site.dtype,
    )
