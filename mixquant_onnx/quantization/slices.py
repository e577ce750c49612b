"""Large weights in slices of some outputs, which fit into the caches of a processor and into little memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid
from mixquant_onnx.numerics.scheme import QuantizedTensor

SLICED_FROM = 1 << 22
"""Weights of a tensor from which on it is quantized in slices."""

_AT_ONCE = 1 << 18
"""Weights of a slice: 1 MiB in float32."""

Slice = tuple[slice, ...]
"""Indices of a slice, the last one along the axis that is cut; empty for everything."""

_Quantize = Callable[[WeightTensor, NDArray[np.generic]], QuantizedTensor]


def quantized_by_slices(
    site: WeightTensor, weight: NDArray[np.generic], grid: Granularity, quantize: _Quantize
) -> QuantizedTensor | None:
    """Quantize a weight slice by slice; each output is quantized on its own anyway.

    Args:
        site: The weight's shape and axes.
        weight: Its values.
        grid: Granularity, after `effective_grid`.
        quantize: Quantizes one slice.

    Returns:
        The weight; None where it is small, outputs share a scale, or the slices have scales of different types.
    """
    parts = slices_of(site.shape, site.layout, grid)
    if len(parts) == 1:
        return None
    codes, made = np.empty(site.shape, np.uint8), list[QuantizedTensor]()
    for part in parts:
        values = weight[part]
        one = quantize(replace(site, shape=values.shape), values)
        codes[part] = one.codes
        made.append(replace(one, codes=codes[part]))
        if one.scale.dtype != made[0].scale.dtype:
            return None
    return _joined(codes, made, 0 if site.layout.p else 2)


def _joined(codes: NDArray[np.uint8], made: Sequence[QuantizedTensor], axis: int) -> QuantizedTensor:
    """The slices as one; scales [P, G, Q] are joined along `axis`."""
    shared = made[0].scheme.symmetric  # else it has one for each scale
    zero = made[0].zero_point if shared else np.concatenate([one.zero_point for one in made], axis)
    return replace(made[0], codes=codes, scale=np.concatenate([one.scale for one in made], axis), zero_point=zero)


def squared_error(q: QuantizedTensor, weight: NDArray[np.generic]) -> float:
    """Sum of squared errors of the dequantized weight, in float64.

    Args:
        q: The quantized weight.
        weight: Its float values.

    Returns:
        The sum over all weights.
    """
    total = 0.0
    for part in slices_of(q.codes.shape, q.layout, effective_grid(q.codes.shape, q.layout, q.scheme.grid)):
        one = sliced(q, part)
        difference = np.asarray(weight[part], np.float32) - one.dequantize(np.dtype(np.float32))
        total += float(np.sum(np.square(difference, dtype=np.float64)))
    return total


def sliced(q: QuantizedTensor, part: Slice) -> QuantizedTensor:
    """A slice along the first axis of outputs.

    Args:
        q: The quantized weight.
        part: One of `slices_of` for it.

    Returns:
        The slice.
    """
    if not part:
        return q
    axis = len(part) - 1
    each = q.scale.shape[0 if q.layout.p else 2] // q.codes.shape[axis]
    span = slice(part[axis].start * each, part[axis].stop * each)
    place = (span,) if q.layout.p else (slice(None), slice(None), span)
    zero = q.zero_point if q.zero_point.size == 1 else q.zero_point[place]
    return replace(q, codes=q.codes[part], scale=q.scale[place], zero_point=zero)


def slices_of(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> list[Slice]:
    """Slices of a weight along its first axis of outputs.

    Args:
        shape: Shape of the weight.
        layout: Its axes.
        grid: Granularity, after `effective_grid`.

    Returns:
        Indices of the slices; a single one, of everything, where the weight is small or its outputs share a scale.
    """
    axis, elements = 0 if layout.p else layout.r, math.prod(shape)
    if elements < SLICED_FROM or grid.per == "tensor" or not (layout.p or layout.q):
        return [()]
    step = max(1, _AT_ONCE * shape[axis] // elements)
    starts = range(0, shape[axis], step)
    return [(*[slice(None)] * axis, slice(start, min(start + step, shape[axis]))) for start in starts]
