"""A quantized tensor as initializers and nodes. Sees codes, scales and zero points, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings import packed_zero_points as zero_points
from mixquant_onnx.export.encodings.bit_planes import (
    byte_shape,
    outline_of_planes,
    pack,
    pack_fields,
    packed_bytes,
    shifts,
)
from mixquant_onnx.export.targets.forms import Kernel
from mixquant_onnx.model.weights import WeightSite
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.granularity import channel_params_shape, effective_grid, params_shape
from mixquant_onnx.numerics.scheme import Quantized, Scheme

FreshName = Callable[[str], str]

ONNX_TYPE = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """What replaces a tensor: stored tensors, the nodes that read them, the functions these call.

    `nbytes` counts codes, scales and zero points as stored.
    """

    tensors: tuple[TensorProto, ...]
    nodes: tuple[NodeProto, ...]
    functions: tuple[FunctionProto, ...]
    nbytes: int


def nbytes_of(site: WeightSite, scheme: Scheme) -> int:
    """Bytes of codes, scales (float16) and zero points for `scheme`, before anything is encoded."""
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    params = int(np.prod(params_shape(site.shape, site.layout, grid)))
    zeros = 1 if scheme.symmetric else zero_points.stored_bytes(params, scheme.bits)
    return packed_bytes(site.elements, scheme.bits) + 2 * params + zeros


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outline(Quantized):
    """A `Quantized` of which only the shapes are known. What is encoded of it has sizes and no data."""


def outline(site: WeightSite, scheme: Scheme, wide_scales: bool = False) -> Outline:
    """What `scheme` makes of the weight `site`. `wide_scales`: float32, where float16 cannot hold them."""
    params = params_shape(site.shape, site.layout, effective_grid(site.shape, site.layout, scheme.grid))
    return Outline(
        codes=np.broadcast_to(np.uint8(0), site.shape),
        scale=np.broadcast_to(np.float32(0) if wide_scales else np.float16(0), params),
        zero_point=np.broadcast_to(np.uint8(0), (1, 1, 1) if scheme.symmetric else params),
        scheme=scheme,
        layout=site.layout,
        dtype=site.dtype,
    )


class Builder:
    """Collects what is stored of the weight `q`, under names that start with `name`, and what reads it."""

    def __init__(self, q: Quantized, name: str, opset: int, fresh: FreshName) -> None:
        self.name, self.opset, self.fresh = name, opset, fresh
        self._empty = isinstance(q, Outline)
        self.tensors: list[TensorProto] = []
        self.nodes: list[NodeProto] = []
        self.functions: list[FunctionProto] = []
        self.nbytes = 0

    def store(self, part: str, value: FloatArray, counted: bool = False) -> str:
        name = self.fresh(f"{self.name}.{part}")
        if self._empty and counted:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.tensors.append(TensorProto(name=name, data_type=kind, dims=value.shape))
        else:
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self.nbytes += value.nbytes if counted else 0
        return name

    def store_packed(self, part: str, codes: Codes, kind: int, bits: int) -> str:
        """A tensor of an ONNX type below 8 bits, low bits first (ONNX TensorProto, UINT4 and UINT2)."""
        name = self.fresh(f"{self.name}.{part}")
        tensor = TensorProto(name=name, data_type=kind, dims=codes.shape)
        if not self._empty:
            flat = np.pad(codes.reshape(-1), (0, -codes.size % (8 // bits)))
            tensor.raw_data = pack_fields(flat, bits).tobytes()
        self.tensors.append(tensor)
        self.nbytes += -(-codes.size * bits // 8)
        return name

    def store_codes(self, codes: Codes, bits: int, shape: tuple[int, ...]) -> list[str]:
        if bits == 8:
            return [self.store("codes", codes.reshape(shape), counted=True)]
        packed = outline_of_planes(codes.size, bits) if self._empty else pack(codes, bits)
        planes = zip(shifts(bits), packed, strict=True)
        return [self.store(f"plane{w}", plane.reshape(byte_shape(w)), counted=True) for (w, _), plane in planes]

    def store_zero(self, zero: Codes, bits: int, scale: str) -> str:
        """Zero points as uint8, packed where that pays; `scale` is of the same shape then."""
        if not zero_points.packs(zero.size, bits):
            return self.store("zero_point", zero, counted=True)
        packed = self.store("zero_point", zero_points.pack_stream(zero, bits), counted=True)
        inputs = [packed, scale][: len(zero_points.inputs(self.opset))]
        value = self.fresh(f"{self.name}.zero")
        extra = zero_points.attributes(zero.size, zero.shape, self.opset)
        self.call(zero_points.build(zero.size, bits, self.opset), inputs, value, "unpack_zero", extra)
        return value

    def call(self, function: FunctionProto, inputs: list[str], output: str, part: str, extra: dict[str, Any]) -> None:
        name = self.fresh(f"{self.name}.{part}")
        node = helper.make_node(function.name, inputs, [output], name=name, domain=functions.DOMAIN, **extra)
        self.functions.append(function)
        self.nodes.append(node)

    def shape(self, part: str, dims: tuple[int, ...]) -> str:
        return self.store(part, np.array(dims, np.int64))


def finish(builder: Builder, q: Quantized, value: str, output: str) -> Encoded:
    if q.dtype != "float32":
        name = builder.fresh(f"{output}.cast")
        builder.nodes.append(helper.make_node("Cast", [value], [output], name=name, to=ONNX_TYPE[q.dtype]))
    return Encoded(
        tensors=tuple(builder.tensors),
        nodes=tuple(builder.nodes),
        functions=tuple(builder.functions),
        nbytes=builder.nbytes,
    )


def value_name(q: Quantized, output: str, fresh: FreshName) -> str:
    return output if q.dtype == "float32" else fresh(f"{output}.float32")


def encode_folded(q: Quantized, output: str, opset: int, fresh: FreshName, small_ints: bool = True) -> Encoded:
    """One node that ONNX Runtime folds to a float constant at load: exact, and as fast as float."""
    shape = q.codes.shape
    grid = effective_grid(shape, q.layout, q.scheme.grid)
    builder = Builder(q, output, opset, fresh)
    form, view = "fold", shape
    scale, zero = q.scale, q.zero_point
    if grid.block is None:
        params = channel_params_shape(shape, q.layout) if scale.size > 1 else (1,) * len(shape)
        scale = scale.reshape(params)
        zero = zero.reshape(params if zero.size > 1 else (1,) * len(shape))
    else:
        p, r, n, _ = q.layout.merged().sizes(shape)
        form = "ragged" if r % grid.block else "blocks"
        view = (p, r, n) if form == "ragged" else (p, r // grid.block, grid.block, n)
        if form == "blocks":
            scale = scale[:, :, None, :]
            zero = zero[:, :, None, :]
    variant = functions.Variant(
        bits=q.scheme.bits,
        form=form,
        tail=has_tail(q),
        opset=opset,
        small_ints=small_ints,
        one_zero=form == "ragged" and zero.size == 1,
    )
    inputs = builder.store_codes(q.codes, q.scheme.bits, view)
    scales = builder.store("scale", scale, counted=True)
    inputs += [builder.store_zero(zero, q.scheme.bits, scales), scales]
    if form != "fold":
        inputs.append(builder.shape("view", view))
    if form == "ragged" and not variant.counts_blocks:
        inputs.append(builder.store("block_of", _block_of(view[1], grid.block or 1), counted=True))
    if form != "fold" or q.scheme.bits < 8:
        inputs.append(builder.shape("shape", shape))
    extra = _count(builder, variant, q, inputs)
    if variant.counts_blocks:
        extra["block_size"] = grid.block
    value = value_name(q, output, fresh)
    builder.call(functions.build(variant), inputs, value, "dequantize", extra)
    return finish(builder, q, value, output)


def encode_matmul(q: Quantized, output: str, kernel: Kernel, transpose: bool, opset: int, fresh: FreshName) -> Encoded:
    """Codes [K, N] behind a blocked DequantizeLinear (opset 21), which ONNX Runtime fuses with MatMul.

    `transpose`: the tensor is stored [N, K] (Gemm with transB) and comes out [K, N].
    """
    codes = q.codes.T if transpose else q.codes
    k, n = codes.shape
    groups = -(-k // kernel.block)
    builder = Builder(q, output, opset, fresh)
    variant = functions.Variant(bits=q.scheme.bits, form=f"matmul{kernel.bits}", tail=has_tail(q), opset=opset)
    scale, zero = (_by_column(values, transpose) for values in (q.scale, q.zero_point))
    inputs = builder.store_codes(codes, q.scheme.bits, (k, n))
    scales = builder.store("scale", scale, counted=True)
    inputs += [
        builder.store_zero(zero, q.scheme.bits, scales),
        scales,
        builder.shape("shape", (k, n)),
        builder.shape("scale_shape", (groups, n)),
    ]
    extra = _count(builder, variant, q, inputs)
    extra["block_size"] = kernel.block
    builder.call(functions.build(variant), inputs, output, "dequantize", extra)
    return finish(builder, q, output, output)


def _block_of(length: int, block: int) -> FloatArray:
    """The block of each position along the reduced axis."""
    index = np.arange(length) // block
    return index.astype(np.uint8 if index[-1] < 256 else np.int32)


def _by_column(params: FloatArray, transpose: bool) -> FloatArray:
    """[groups, N] from [P, G, Q]: columns are Q of [K, N] and P of [N, K]."""
    return params[:, :, 0].T if transpose else params[0]


def _count(builder: Builder, variant: functions.Variant, q: Quantized, inputs: list[str]) -> dict[str, Any]:
    """Where padding is cut off: the number of elements as an input, below opset 10 as an attribute."""
    if variant.tail and variant.opset >= 10:
        inputs.append(builder.shape("count", (q.codes.size,)))
    return {"count": [q.codes.size]} if variant.tail and variant.opset < 10 else {}


def encode_codes(q: Quantized, shape: tuple[int, ...], builder: Builder, small_ints: bool) -> str:
    """Codes as uint8 in `shape`, unpacked at load: the name of the value."""
    bits, opset = q.scheme.bits, builder.opset
    variant = functions.Variant(bits=bits, form="codes", tail=has_tail(q), opset=opset, small_ints=small_ints)
    inputs = builder.store_codes(q.codes, bits, shape)
    inputs.append(builder.shape("shape", shape))
    extra = _count(builder, variant, q, inputs)
    value = builder.fresh(f"{builder.name}.codes")
    builder.call(functions.build(variant), inputs, value, "unpack", extra)
    return value


def has_tail(q: Quantized) -> bool:
    return q.scheme.bits < 8 and q.codes.size % 8 != 0
