"""Standard DequantizeLinear before a weight, for other runtimes and compilers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixquant_onnx.config.parsing import SMALL_INTS_FROM
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.decoder_functions import is_narrow
from mixquant_onnx.export.encodings.native_types import NATIVE_TYPES
from mixquant_onnx.export.encodings.storage import EVERY_RELEASE, NEVER, SMALL_INTS_FROM_OPSET, Release, Storage
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid
from mixquant_onnx.numerics.scheme import QuantizedTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DequantizeLinear(Storage):
    """A weight that the runtime may dequantize at every run.

    Attributes:
        two_bits: Whether UINT2 may be used.
        small_ints: Whether codes of other widths may be combined in 8-bit integers.
    """

    two_bits: bool = True
    small_ints: bool = True

    @property
    def name(self) -> str:
        """The operator."""
        return "DequantizeLinear"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_native`."""
        encoded = encode_native(q, output, opset, self.two_bits, fresh, self.small_ints)
        assert encoded is not None, f"opset {opset} is below {self.needs}"
        return encoded

    def loads_from(self, opset: int) -> Release:
        """See `Storage`; the release that adds 8-bit integers, where codes are combined in them."""
        return SMALL_INTS_FROM if is_narrow(self.bits, opset, self.small_ints) else EVERY_RELEASE

    def not_slower_from(self) -> Release | None:
        """See `Storage`; before most operators onnxruntime runs DequantizeLinear at every call."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Shapes in which codes and parameters are stored, attributes of DequantizeLinear, and its first opset."""

    codes: tuple[int, ...]
    params: tuple[int, ...]
    axis: int | None
    block: int
    opset: int


def _plan(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> _Plan:
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
            return _Plan(codes=shape, params=(p, q), axis=None, block=0, opset=NEVER)
        return _Plan(codes=(p, r, q), params=(p, 1, q), axis=1, block=r, opset=21)
    p, r, q, _ = layout.merged().sizes(shape)
    groups = -(-r // grid.block)
    if len(shape) == 2 and layout.merged().r == 1:
        axis = layout.p
        params = (p, groups) if axis else (groups, q)
        return _Plan(codes=shape, params=params, axis=axis, block=grid.block, opset=21)
    return _Plan(codes=(p, r, q), params=(p, groups, q), axis=1, block=grid.block, opset=21)


def least_opset(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> int:
    """The first opset whose DequantizeLinear supports a granularity.

    Args:
        shape: Shape of the weight.
        layout: Its axes.
        grid: The granularity.

    Returns:
        The opset; `NEVER` where none does.

    Source:
        ONNX DequantizeLinear-10 (tensor), -13 (channel), -21 (blocks).
    """
    return _plan(shape, layout, effective_grid(shape, layout, grid)).opset


def opset_for(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity, bits: int) -> int:
    """The first opset with the best form: this granularity, UINT4 for 4 bits, and a small decoder for other widths.

    Args:
        shape: Shape of the weight.
        layout: Its axes.
        grid: The granularity.
        bits: Width of the codes.

    Returns:
        The opset.
    """
    needed = least_opset(shape, layout, grid)
    if needed == NEVER:
        return SMALL_INTS_FROM_OPSET
    return max(needed, 21) if bits == 4 else max(needed, SMALL_INTS_FROM_OPSET if bits < 8 else needed)


def encode_native(
    q: QuantizedTensor, output: str, opset: int, two_bits: bool, fresh: FreshName, small_ints: bool = True
) -> Encoded | None:
    """DequantizeLinear on uint8, uint4 or uint2 where ONNX has the width, else on codes unpacked to uint8.

    Args:
        q: The weight.
        output: Name of the value that the last node computes.
        opset: Opset of the model.
        two_bits: Whether uint2 may be used.
        fresh: Gives an unused name.
        small_ints: Whether codes may be combined in 8-bit integers.

    Returns:
        What replaces the weight; None where DequantizeLinear of this opset does not have the granularity.

    Source:
        ONNX DequantizeLinear-10 (tensor), -13 (channel), -21 (blocks, uint4), -25 (uint2).
    """
    shape = q.codes.shape
    plan = _plan(shape, q.layout, effective_grid(shape, q.layout, q.scheme.grid))
    if opset < plan.opset:
        return None
    builder = Builder(q, output, opset, fresh)
    inputs = _inputs(builder, q, plan, opset, two_bits, small_ints)
    value = builder.float32_name()
    flat = value if plan.codes == shape else fresh(f"{output}.flat")
    attributes: dict[str, Any] = {} if plan.axis is None else {"axis": plan.axis}
    if plan.block:
        attributes["block_size"] = plan.block
    builder.node("DequantizeLinear", inputs, flat, "dequantize", **attributes)
    if flat != value:
        builder.node("Reshape", [flat, builder.shape("logical_shape", shape)], value, "reshape")
    return builder.finish(value)


def _inputs(
    builder: Builder, q: QuantizedTensor, plan: _Plan, opset: int, two_bits: bool, small_ints: bool
) -> list[str]:
    """Codes, scales and zero points as stored; codes and zero points in the same type."""
    bits = q.scheme.bits
    kind, since = NATIVE_TYPES.get(bits, (0, 0))
    native = bool(kind) and opset >= since and (bits == 4 or two_bits)
    shaped = q.codes.reshape(plan.codes)
    if native:
        codes = builder.store_packed("codes", shaped, kind)
    elif bits == 8:
        codes = builder.store("codes", shaped, counted=True)
    else:
        codes = builder.unpacked_codes(plan.codes, small_ints)
    scale = builder.store("scale", q.scale.astype(np.float32).reshape(plan.params), counted=True)
    zero = _full(q.zero_point, plan.params)
    stored = builder.store_packed("zero_point", zero, kind) if native else builder.store_zero(zero, scale)
    return [codes, scale, stored]


def _full(zero: FloatArray, params: tuple[int, ...]) -> FloatArray:
    """Zero points in the shape of the scales, a single one repeated."""
    return zero.reshape(params) if zero.size > 1 or not params else np.full(params, zero.reshape(-1)[0], np.uint8)
