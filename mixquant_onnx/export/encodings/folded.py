"""Codes and one function call that ONNX Runtime folds to a float constant at load: exact, and as fast as float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixquant_onnx.config.parsing import SMALL_INTS_FROM
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.storage import (
    BROADCASTING_FROM_OPSET,
    EVERY_RELEASE,
    SMALL_INTS_FROM_OPSET,
    Release,
    Storage,
)
from mixquant_onnx.export.weight_in_model import WeightInModel
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.rows import channel_params_shape, effective_grid
from mixquant_onnx.numerics.scheme import QuantizedTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded(Storage):
    """A weight that is a float constant after loading.

    Attributes:
        small_ints: Whether codes may be combined in 8-bit integers (from onnxruntime 1.21 on).
    """

    small_ints: bool = True

    @property
    def name(self) -> str:
        """Folded at load."""
        return "folded"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_folded`."""
        return encode_folded(q, output, opset, fresh, self.small_ints)

    def loads_from(self, opset: int) -> Release:
        """See `Storage`; the release that adds 8-bit integers, where codes are combined in them."""
        return SMALL_INTS_FROM if functions.is_narrow(self.bits, opset, self.small_ints) else EVERY_RELEASE


def offer(weight: WeightInModel) -> Folded:
    """The folded storage of a weight; possible for every weight, at every opset that ONNX Runtime runs.

    Args:
        weight: The weight.

    Returns:
        Its storage.
    """
    bits, small_ints = weight.scheme.bits, weight.options.small_ints
    best = SMALL_INTS_FROM_OPSET if small_ints and bits < 8 else BROADCASTING_FROM_OPSET
    return Folded(bits=bits, opset=best, small_ints=small_ints)


def encode_folded(q: QuantizedTensor, output: str, opset: int, fresh: FreshName, small_ints: bool = True) -> Encoded:
    """Bit planes, scales and zero points, and one node that computes the weight.

    Args:
        q: The weight.
        output: Name of the weight in the graph.
        opset: Opset of the model.
        fresh: Gives an unused name.
        small_ints: Whether codes may be combined in 8-bit integers.

    Returns:
        What replaces the weight.
    """
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    builder = Builder(q, output, opset, fresh)
    form, view, scale, zero = _stored(q)
    variant = functions.Variant(
        bits=q.scheme.bits,
        form=form,
        tail=builder.tail,
        opset=opset,
        small_ints=small_ints,
        one_zero=form == "ragged" and zero.size == 1,
    )
    inputs = builder.store_codes(q.codes, view)
    scales = builder.store("scale", scale, counted=True)
    inputs += [builder.store_zero(zero, scales), scales]
    if form != "fold":
        inputs.append(builder.shape("view", view))
    if form == "ragged" and not variant.counts_blocks:
        inputs.append(builder.store("block_of", _block_of(view[1], grid.block or 1), counted=True))
    if form != "fold" or q.scheme.bits < 8:
        inputs.append(builder.shape("shape", q.codes.shape))
    extra: dict[str, Any] = builder.count(variant, inputs)
    if variant.counts_blocks:
        extra["block_size"] = grid.block
    value = builder.float32_name()
    builder.call(functions.build(variant), inputs, value, "dequantize", extra)
    return builder.finish(value)


def _stored(q: QuantizedTensor) -> tuple[functions.Form, tuple[int, ...], FloatArray, FloatArray]:
    """Form of the function, shape of the codes in it, scales and zero points that broadcast against that shape."""
    shape, scale, zero = q.codes.shape, q.scale, q.zero_point
    grid = effective_grid(shape, q.layout, q.scheme.grid)
    if grid.block is None:
        params = channel_params_shape(shape, q.layout) if scale.size > 1 else (1,) * len(shape)
        return "fold", shape, scale.reshape(params), zero.reshape(params if zero.size > 1 else (1,) * len(shape))
    p, r, n, _ = q.layout.merged().sizes(shape)
    if r % grid.block:
        return "ragged", (p, r, n), scale, zero
    return "blocks", (p, r // grid.block, grid.block, n), scale[:, :, None, :], zero[:, :, None, :]


def _block_of(length: int, block: int) -> FloatArray:
    """The block index of each position along the reduced axis."""
    index = np.arange(length) // block
    return index.astype(np.uint8 if index[-1] < 256 else np.int32)
