"""Standard DequantizeLinear in front of a weight (`--target qdq`), for other runtimes and compilers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from mixquant_onnx.export.encodings.encoder import Builder, Encoded, FreshName, encode_codes, finish, value_name
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.granularity import Grid, Layout, effective_grid
from mixquant_onnx.numerics.scheme import Quantized

_KINDS = {4: (TensorProto.UINT4, 21), 2: (TensorProto.UINT2, 25)}
"""Type and first opset of the widths below 8 that ONNX stores itself."""


_NEVER = 1 << 30
"""In place of an opset: DequantizeLinear cannot say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The shape that codes and parameters are stored in, and the attributes of DequantizeLinear."""

    codes: tuple[int, ...]
    params: tuple[int, ...]
    axis: int | None
    block: int
    opset: int


def _plan(shape: tuple[int, ...], layout: Layout, grid: Grid) -> _Plan:
    if grid.per == "tensor":
        return _Plan(codes=shape, params=(), axis=None, block=0, opset=10)
    if grid.block is None:
        p, r, q, s = layout.sizes(shape)
        if layout.q == 0:
            codes = shape if layout.p == 1 else (p, r)
            return _Plan(codes=codes, params=(p,), axis=0, block=0, opset=13)
        if layout.p == 0 and layout.q == 1:
            return _Plan(codes=shape, params=(q,), axis=layout.r, block=0, opset=13)
        if s > 1:
            return _Plan(codes=shape, params=(p, q), axis=None, block=0, opset=_NEVER)
        return _Plan(codes=(p, r, q), params=(p, 1, q), axis=1, block=r, opset=21)
    p, r, q, _ = layout.merged().sizes(shape)
    groups = -(-r // grid.block)
    if len(shape) == 2 and layout.merged().r == 1:
        axis = layout.p
        params = (p, groups) if axis else (groups, q)
        return _Plan(codes=shape, params=params, axis=axis, block=grid.block, opset=21)
    return _Plan(codes=(p, r, q), params=(p, groups, q), axis=1, block=grid.block, opset=21)


def opset_for(shape: tuple[int, ...], layout: Layout, grid: Grid, bits: int) -> int:
    """The first opset whose DequantizeLinear says this granularity, and has this width if 4 bits."""
    needed = _plan(shape, layout, effective_grid(shape, layout, grid)).opset
    if needed == _NEVER:
        return 14
    return max(needed, 21) if bits == 4 else max(needed, 14 if bits < 8 else needed)


def encode_native(
    q: Quantized, output: str, opset: int, two_bits: bool, fresh: FreshName, small_ints: bool = True
) -> Encoded | None:
    """DequantizeLinear on uint8, uint4 or uint2 where ONNX has the width, else on codes unpacked to uint8.

    None where this opset cannot say it. `two_bits`: uint2 may be used (ONNX Runtime 1.31 computes garbage for
    MatMul with a 2-bit weight whose output width is not a multiple of 4).
    """
    shape = q.codes.shape
    grid = effective_grid(shape, q.layout, q.scheme.grid)
    plan = _plan(shape, q.layout, grid)
    if opset < plan.opset:
        return None
    builder = Builder(q, output, opset, fresh)
    kind, since = _KINDS.get(q.scheme.bits, (0, 0))
    native = bool(kind) and opset >= since and (q.scheme.bits == 4 or two_bits)
    if native:
        codes = builder.store_packed("codes", q.codes.reshape(plan.codes), kind, q.scheme.bits)
    elif q.scheme.bits == 8:
        codes = builder.store("codes", q.codes.reshape(plan.codes), counted=True)
    else:
        codes = encode_codes(q, plan.codes, builder, small_ints)
    scale = q.scale.astype(np.float32).reshape(plan.params)
    zero = _full(q.zero_point, plan.params)
    inputs = [codes, builder.store("scale", scale, counted=True)]
    inputs.append(
        builder.store_packed("zero_point", zero, kind, q.scheme.bits)
        if native
        else builder.store_zero(zero, q.scheme.bits, inputs[1])
    )
    value = value_name(q, output, fresh)
    flat = value if plan.codes == shape else fresh(f"{output}.flat")
    attributes: dict[str, Any] = {} if plan.axis is None else {"axis": plan.axis}
    if plan.block:
        attributes["block_size"] = plan.block
    name = fresh(f"{output}.dequantize")
    builder.nodes.append(helper.make_node("DequantizeLinear", inputs, [flat], name=name, **attributes))
    if flat != value:
        inputs = [flat, builder.shape("logical_shape", shape)]
        builder.nodes.append(helper.make_node("Reshape", inputs, [value], name=fresh(f"{output}.reshape")))
    return finish(builder, q, value, output)


def _full(zero: FloatArray, params: tuple[int, ...]) -> FloatArray:
    return zero.reshape(params) if zero.size > 1 or not params else np.full(params, zero.reshape(-1)[0], np.uint8)
