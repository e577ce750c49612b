"""Collects the initializers and nodes of one encoded weight, and names them."""

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
    field_bytes,
    outline_of_planes,
    pack,
    pack_fields,
    shifts,
)
from mixquant_onnx.export.encodings.outline import Outline
from mixquant_onnx.model.constants import FLOAT_TYPES
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor

FreshName = Callable[[str], str]
"""Gives a name that the model does not have yet: the one asked for, or a similar one."""

ONNX_TYPE = {name: kind for kind, name in FLOAT_TYPES.items()}
"""TensorProto's number of each float type that a weight may have."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """What replaces a weight in a graph.

    Attributes:
        tensors: Stored tensors, the codes first.
        nodes: Nodes that compute the weight; the first output of the last one is the weight.
        functions: Model-local functions that the nodes call.
        nbytes: Bytes of codes, scales and zero points as stored.
        tables: Further tensors, which do not depend on the weight; a graph stores equal ones once.
    """

    tensors: tuple[TensorProto, ...]
    nodes: tuple[NodeProto, ...]
    functions: tuple[FunctionProto, ...]
    nbytes: int
    tables: tuple[TensorProto, ...] = ()


class Builder:
    """Collects the tensors that are stored for a weight, and the nodes that read them.

    Args:
        q: The weight, or its `Outline`: then tensors have shapes and no data.
        name: The value that holds the weight in the graph; all other names start with it.
        opset: Version of the default domain for nodes and functions.
        fresh: Gives an unused name.
    """

    def __init__(self, q: QuantizedTensor, name: str, opset: int, fresh: FreshName) -> None:
        self.name, self.opset, self.fresh = name, opset, fresh
        self._q, self._bits = q, q.scheme.bits
        self._empty = isinstance(q, Outline)
        self._tensors: list[TensorProto] = []
        self._nodes: list[NodeProto] = []
        self._functions: list[FunctionProto] = []
        self._nbytes = 0

    @property
    def tail(self) -> bool:
        """Whether codes are padded to a multiple of 8, so that the decoder must drop the padding."""
        return self._bits < 8 and self._q.codes.size % 8 != 0

    def store(self, part: str, value: FloatArray, counted: bool = False) -> str:
        """Store a tensor.

        Args:
            part: Suffix of its name.
            value: The tensor.
            counted: Whether its bytes are counted as the weight's (`Encoded.nbytes`).

        Returns:
            Its name.
        """
        name = self.fresh(f"{self.name}.{part}")
        if self._empty and counted:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._tensors.append(TensorProto(name=name, data_type=kind, dims=value.shape))
        else:
            self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self._nbytes += value.nbytes if counted else 0
        return name

    def store_packed(self, part: str, codes: Codes, kind: int) -> str:
        """Store codes as a tensor of an ONNX type below 8 bits.

        Args:
            part: Suffix of its name.
            codes: The codes.
            kind: Number of the type in TensorProto.

        Returns:
            Its name.

        Source:
            ONNX TensorProto, UINT4 (opset 21) and UINT2 (opset 25): packed, low bits first.
        """
        name = self.fresh(f"{self.name}.{part}")
        tensor = TensorProto(name=name, data_type=kind, dims=codes.shape)
        if not self._empty:
            flat = np.pad(codes.reshape(-1), (0, -codes.size % (8 // self._bits)))
            tensor.raw_data = pack_fields(flat, self._bits).tobytes()
        self._tensors.append(tensor)
        self._nbytes += field_bytes(codes.size, self._bits)
        return name

    def store_codes(self, codes: Codes, shape: tuple[int, ...]) -> list[str]:
        """Store codes as bit planes.

        Args:
            codes: The codes.
            shape: Shape in which codes of 8 bits are stored.

        Returns:
            Names of the tensors, high bits first.
        """
        if self._bits == 8:
            return [self.store("codes", codes.reshape(shape), counted=True)]
        packed = outline_of_planes(codes.size, self._bits) if self._empty else pack(codes, self._bits)
        planes = zip(shifts(self._bits), packed, strict=True)
        return [self.store(f"plane{w}", plane.reshape(byte_shape(w)), counted=True) for (w, _), plane in planes]

    def store_zero(self, zero: Codes, scale: str) -> str:
        """Store zero points, packed where that makes the file smaller.

        Args:
            zero: The zero points, uint8.
            scale: Name of the scales, which have the same shape where zero points are packed.

        Returns:
            Name of the zero points as uint8.
        """
        if not zero_points.packs(zero.size, self._bits):
            return self.store("zero_point", zero, counted=True)
        packed = self.store("zero_point", zero_points.pack_stream(zero, self._bits), counted=True)
        inputs = [packed, scale][: len(zero_points.inputs(self.opset))]
        value = self.fresh(f"{self.name}.zero")
        extra = zero_points.attributes(zero.size, zero.shape, self.opset)
        self.call(zero_points.build(zero.size, self._bits, self.opset), inputs, value, "unpack_zero", extra)
        return value

    def shape(self, part: str, dims: tuple[int, ...]) -> str:
        """Store a shape.

        Args:
            part: Suffix of its name.
            dims: The sizes.

        Returns:
            Name of the int64 tensor.
        """
        return self.store(part, np.array(dims, np.int64))

    def count(self, variant: functions.Variant, inputs: list[str]) -> dict[str, Any]:
        """Tell a function how many codes there are without padding.

        Args:
            variant: The function.
            inputs: Inputs of the call; the count is appended from opset 10 on.

        Returns:
            Attributes of the call; not empty below opset 10.
        """
        if variant.tail and variant.opset >= 10:
            inputs.append(self.shape("count", (self._q.codes.size,)))
        return {"count": [self._q.codes.size]} if variant.tail and variant.opset < 10 else {}

    def unpacked_codes(self, shape: tuple[int, ...], small_ints: bool) -> str:
        """Store codes as bit planes that are unpacked at load.

        Args:
            shape: Shape of the unpacked codes.
            small_ints: Whether 8-bit integers may be added (from onnxruntime 1.21 on).

        Returns:
            Name of the codes as uint8.
        """
        variant = functions.Variant(
            bits=self._bits, form="codes", tail=self.tail, opset=self.opset, small_ints=small_ints
        )
        inputs = self.store_codes(self._q.codes, shape)
        inputs.append(self.shape("shape", shape))
        extra = self.count(variant, inputs)
        value = self.fresh(f"{self.name}.codes")
        self.call(functions.build(variant), inputs, value, "unpack", extra)
        return value

    def node(self, op: str, inputs: list[str], output: str, part: str, **attributes: Any) -> None:
        """Add a node, named after the weight.

        Args:
            op: Type of the operator.
            inputs: Names of its inputs.
            output: Name of its output.
            part: Suffix of its name.
            **attributes: Its attributes.
        """
        name = self.fresh(f"{self.name}.{part}")
        self._nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))

    def call(self, function: FunctionProto, inputs: list[str], output: str, part: str, extra: dict[str, Any]) -> None:
        """Add a node that calls a function.

        Args:
            function: The function.
            inputs: Names of the inputs.
            output: Name of the output.
            part: Suffix of the node's name.
            extra: Attributes of the call.
        """
        self.node(function.name, inputs, output, part, domain=functions.DOMAIN, **extra)
        self._functions.append(function)

    def float32_name(self) -> str:
        """The name of the weight as float32: the weight's own where it is of this type."""
        return self.name if self._q.dtype == "float32" else self.fresh(f"{self.name}.float32")

    def finish(self, value: str) -> Encoded:
        """Everything that was collected, with a final Cast to the type of the weight.

        Args:
            value: Name of the weight as float32 (`float32_name`).

        Returns:
            What replaces the weight.
        """
        if self._q.dtype != "float32":
            self.node("Cast", [value], self.name, "cast", to=ONNX_TYPE[self._q.dtype])
        return Encoded(
            tensors=tuple(self._tensors),
            nodes=tuple(self._nodes),
            functions=tuple(self._functions),
            nbytes=self._nbytes,
        )
