"""Model-local functions that decode stored planes to a weight. ONNX Runtime inlines and folds them at load.

Unpacking is a table look-up: Gather(table [256, fields], bytes) gives the fields of each byte, already in their place
in the code, so that planes only have to be added. Measured at load, it takes a third of the time of shifting and
masking every element, and it works at every opset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings.bit_planes import fields_shape, shifts, table

DOMAIN = "mixquant"
"""Domain of the functions."""
DOMAIN_VERSION = 1
"""Version of the domain in opset imports; functions do not depend on it."""

Form = Literal["fold", "blocks", "ragged", "matmul8", "matmul4", "int8", "codes"]
"""The result of a function; see `Variant`."""

_SUFFIX: dict[Form, str] = {
    "fold": "",
    "blocks": "Blocks",
    "ragged": "RaggedBlocks",
    "matmul8": "MatMul8",
    "matmul4": "MatMul4",
    "int8": "Int8",
}


def is_narrow(bits: int, opset: int, small_ints: bool = True) -> bool:
    """Whether codes are combined in 8-bit integers.

    Args:
        bits: Width of the codes.
        opset: Opset of the function.
        small_ints: Whether the runtime adds 8-bit integers (from onnxruntime 1.21 on).

    Returns:
        True below 8 bits, if opset and runtime allow.

    Source:
        ONNX Add-14, the first for 8-bit integers.
    """
    return bits < 8 and opset >= 14 and small_ints


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One function.

    Attributes:
        bits: Width of the codes.
        form: `fold` gives (codes - zero point) x scale, zero point and scale broadcast; `blocks` and `ragged` the same
            with one scale per block, the last block of a row whole or short; `matmul8` and `matmul4` a blocked
            DequantizeLinear on uint8 and uint4, which ONNX Runtime fuses with MatMul; `int8` a DequantizeLinear on int8
            with zero point 0, which it fuses with an operator on 8-bit activations; `codes` the codes alone.
        tail: Whether codes are padded, and the padding must be dropped.
        opset: Opset of the body.
        small_ints: Whether 8-bit integers may be added and subtracted.
        one_zero: Whether all blocks have the same zero point.
    """

    bits: int
    form: Form
    tail: bool
    opset: int
    small_ints: bool = True
    one_zero: bool = False

    @property
    def name(self) -> str:
        """The function's name, shown in graph viewers: its result, and the width of the codes."""
        stem = f"Unpack{self.bits}" if self.form == "codes" else f"DequantizeLinear{self.bits}{_SUFFIX[self.form]}"
        return stem + ("OneZero" if self.one_zero else "") + ("Tail" if self.tail else "")

    @property
    def narrow(self) -> bool:
        """Whether codes are combined in 8-bit integers."""
        return is_narrow(self.bits, self.opset, self.small_ints)

    @property
    def counts_blocks(self) -> bool:
        """Whether the block of each position is computed (Constant-12 with an attribute), not stored."""
        return self.form == "ragged" and self.opset >= 12

    def inputs(self) -> list[str]:
        """Names of the function's inputs in order."""
        planes = ["codes"] if self.bits == 8 else [f"plane{width}" for width, _ in shifts(self.bits)]
        names = list(planes)
        if self.form != "codes":
            names += ["zero_point", "scale"]
        if self.form in ("blocks", "ragged"):
            names.append("view")
        if self.form == "ragged" and not self.counts_blocks:
            names.append("block_of")
        if self.form not in ("fold", "int8") or self.bits < 8:
            names.append("shape")
        if self.form in ("matmul8", "matmul4"):
            names.append("scale_shape")
        if self.tail and self.opset >= 10:
            names.append("count")
        return names


class Body:
    """Nodes of a function body; each call adds one node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of a standard operator.

        Args:
            op: Type of the operator.
            *inputs: Names of its inputs.
            output: Name of its output; None for a new one.
            **attributes: Its attributes.

        Returns:
            Name of the output.
        """
        name = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """Add a Constant node.

        Args:
            value: Its value.

        Returns:
            Name of the output.
        """
        return self.add("Constant", value=numpy_helper.from_array(value))


def _codes(body: Body, variant: Variant, shape: str, kind: type[np.generic]) -> str:
    """Codes of type `kind` in `shape`; codes of 8 bits are stored in this form."""
    if variant.bits == 8:
        return "codes"
    total = ""
    for width, low in shifts(variant.bits):
        index = body.add("Cast", f"plane{width}", to=TensorProto.INT32)
        fields = table(width, low).astype(kind).reshape(256, *fields_shape(width))
        values = body.add("Gather", body.constant(fields), index, axis=0)
        total = body.add("Add", total, values) if total else values
    if variant.tail and variant.opset >= 10:
        flat = body.add("Reshape", total, body.constant(np.array([-1], np.int64)))
        total = without_padding(body, variant.opset, flat)
    elif variant.tail:
        total = without_padding(body, variant.opset, body.add("Flatten", total, axis=0))
    return body.add("Reshape", total, shape)


def without_padding(body: Body, opset: int, codes: str, count: str = "count") -> str:
    """Drop the padding of codes.

    Args:
        body: The body that the node is added to.
        opset: Opset of the function. Below 10 (Slice-10), `count` is an attribute of the function and codes are [1, n].
        codes: Name of the codes, in one dimension.
        count: Name of the number to keep.

    Returns:
        Name of the first `count` codes.
    """
    if opset >= 10:
        return body.add("Slice", codes, body.constant(np.array([0], np.int64)), count)
    kept = body.add("Slice", codes, axes=[1], starts=[0])
    body.nodes[-1].attribute.append(reference("count", "ends", AttributeProto.INTS))
    return kept


def _small_codes(body: Body, variant: Variant) -> str:
    if variant.narrow or variant.bits == 8:
        return _codes(body, variant, "shape", np.uint8)
    return body.add("Cast", _codes(body, variant, "shape", np.float32), to=TensorProto.UINT8)


def _per_block(body: Body, variant: Variant, name: str) -> str:
    """Scale or zero point for each element along the reduced axis, where the last block is short."""
    if variant.form != "ragged":
        return name
    if not variant.counts_blocks:
        return body.add("Gather", name, body.add("Cast", "block_of", to=TensorProto.INT32), axis=1)
    first, second = (body.constant(np.array(value, np.int64)) for value in (0, 1))
    positions = body.add("Range", first, body.add("Gather", "view", second), second)
    block = body.add("Constant")
    body.nodes[-1].attribute.append(reference("block_size", "value_int"))
    return body.add("Gather", name, body.add("Div", positions, block), axis=1)


def _product(body: Body, variant: Variant, output: str) -> None:
    shape = "view" if variant.form in ("blocks", "ragged") else "shape"
    scale = body.add("Cast", _per_block(body, variant, "scale"), to=TensorProto.FLOAT)
    zero = "zero_point" if variant.one_zero else _per_block(body, variant, "zero_point")
    if variant.narrow:
        codes = _codes(body, variant, shape, np.int8)
        level = body.add("Sub", codes, body.add("Cast", zero, to=TensorProto.INT8))
        level = body.add("Cast", level, to=TensorProto.FLOAT)
    else:
        codes = _codes(body, variant, shape, np.float32)
        level = body.add("Cast", codes, to=TensorProto.FLOAT) if variant.bits == 8 else codes
        level = body.add("Sub", level, body.add("Cast", zero, to=TensorProto.FLOAT))
    body.add("Mul", level, scale, output=output)


def _blocked_dequantize(body: Body, variant: Variant) -> None:
    codes = _small_codes(body, variant)
    scale = body.add("Expand", body.add("Cast", "scale", to=TensorProto.FLOAT), "scale_shape")
    zero = body.add("Expand", "zero_point", "scale_shape")
    if variant.form == "matmul4":
        codes = body.add("Cast", codes, to=TensorProto.UINT4)
        zero = body.add("Cast", zero, to=TensorProto.UINT4)
    node = helper.make_node("DequantizeLinear", [codes, scale, zero], ["weight"], axis=0)
    node.attribute.append(reference("block_size"))
    body.nodes.append(node)


def _int8_dequantize(body: Body, variant: Variant) -> None:
    """Codes minus their zero points, which are levels from -128 to 127."""
    if variant.narrow:
        level = body.add(
            "Sub", _codes(body, variant, "shape", np.int8), body.add("Cast", "zero_point", to=TensorProto.INT8)
        )
    else:
        codes = body.add("Cast", _codes(body, variant, "shape", np.float32), to=TensorProto.FLOAT)
        level = body.add("Sub", codes, body.add("Cast", "zero_point", to=TensorProto.FLOAT))
        level = body.add("Cast", level, to=TensorProto.INT8)
    scale = body.add("Cast", "scale", to=TensorProto.FLOAT)
    node = helper.make_node("DequantizeLinear", [level, scale], ["weight"])
    node.attribute.append(reference("axis"))
    body.nodes.append(node)


def reference(
    of_function: str, of_node: str | None = None, kind: AttributeProto.AttributeType = AttributeProto.INT
) -> AttributeProto:
    """An attribute of a node that refers to an attribute of the call.

    Args:
        of_function: Name of the function's attribute.
        of_node: Name of the node's attribute; None for the same.
        kind: Type of the attribute.

    Returns:
        The attribute.
    """
    return AttributeProto(name=of_node or of_function, ref_attr_name=of_function, type=kind)


@cache
def build(variant: Variant) -> FunctionProto:
    """The function that a variant describes.

    Args:
        variant: The variant.

    Returns:
        A function whose output is the weight (form `codes`: the codes). Callers share the object and must not change
        it.
    """
    body = Body()
    output = "weight"
    attributes: list[str] = []
    if variant.form == "fold":
        _product(body, variant, "weight")
    elif variant.form in ("blocks", "ragged"):
        _product(body, variant, "in_blocks")
        body.add("Reshape", "in_blocks", "shape", output="weight")
        attributes = ["block_size"] if variant.counts_blocks else []
    elif variant.form in ("matmul8", "matmul4"):
        attributes = ["block_size"]
        _blocked_dequantize(body, variant)
    elif variant.form == "int8":
        attributes = ["axis"]
        _int8_dequantize(body, variant)
    else:
        output = _small_codes(body, variant)
    if variant.tail and variant.opset < 10:
        attributes.append("count")
    return helper.make_function(
        DOMAIN,
        variant.name,
        variant.inputs(),
        [output],
        body.nodes,
        [helper.make_opsetid("", variant.opset)],
        attributes,
    )
