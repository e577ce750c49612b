"""Products and tables on codes: MatMulNBits and GatherBlockQuantized of ONNX Runtime, and back for the verification."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.export.encodings.decoder_functions import DOMAIN
from mixquant_onnx.export.encodings.packed_kernel import PACKED, packed_rows
from mixquant_onnx.export.opset import import_domain
from mixquant_onnx.model.dependencies import drop_initializers, set_nodes, unread_initializers
from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.arrays import Codes, FloatArray

PRODUCT, TABLE = "MatMulNBits", "GatherBlockQuantized"
KERNEL_DOMAIN = "com.microsoft"

_ALL = slice(None)

_ACCURACY = 4
"""Activations are rounded to 8 bits in blocks, as ONNX Runtime does by default where it makes the kernel itself."""


def pack_operators(model: ModelProto) -> None:
    """Put kernels in place of the nodes that read packed weights.

    Args:
        model: A model whose packed weights are read by MatMul and Gather; it is changed.

    Source:
        com.microsoft MatMulNBits-1 and GatherBlockQuantized-1.
    """
    packed = {node.output[0]: node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, PACKED)}
    if not packed:
        return
    turned = {
        n.output[0]: packed[n.input[0]] for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in packed
    }
    made: list[NodeProto] = []
    fresh = fresh_names(model)
    for node in model.graph.node:
        if node.op_type == "MatMul" and (weight := (packed | turned).get(node.input[1])):
            _be_product(node, weight)
        elif node.op_type == "Gather" and node.input[0] in packed:
            made += _be_table(node, packed[node.input[0]], fresh)
            continue
        if (node.domain, node.op_type) != (DOMAIN, PACKED) and not set(node.output) & set(turned):
            made.append(node)
    set_nodes(model.graph, made)
    import_domain(model, KERNEL_DOMAIN)


def _be_product(node: NodeProto, weight: NodeProto) -> None:
    at = attributes(weight)
    _become(node, PRODUCT, [node.input[0], *weight.input[:3]], K=at["length"], N=at["rows"], bits=at["bits"],
            block_size=at["block"], accuracy_level=_ACCURACY)  # fmt: skip


def _be_table(node: NodeProto, weight: NodeProto, fresh: FreshName) -> list[NodeProto]:
    """The kernel; where it shares the codes of a product, rows come in blocks, which are then joined."""
    at, codes, shared = attributes(weight), weight.input[0], len(weight.input) > 3
    scales, zeros = weight.input[3:5] if shared else weight.input[1:3]
    indices, output = node.input[1], node.output[0]
    _become(node, TABLE, [codes, indices, scales, zeros], gather_axis=0, quantize_axis=2 if shared else 1,
            bits=at["bits"], block_size=at["block"])  # fmt: skip
    if not shared:
        return [node]
    node.output[0], shape, row, whole = (fresh(f"{output}.{part}") for part in ("blocks", "shape", "row", "whole"))
    length = helper.make_node("Constant", [], [row], name=row, value_ints=[at["length"]])
    return [
        node, length, helper.make_node("Shape", [indices], [shape], name=shape),
        helper.make_node("Concat", [shape, row], [whole], name=whole, axis=0),
        helper.make_node("Reshape", [node.output[0], whole], [output], name=f"{output}.rows"),
    ]  # fmt: skip


def _become(node: NodeProto, kind: str, inputs: list[str], **values: int) -> None:
    node.op_type, node.domain = kind, KERNEL_DOMAIN
    del node.input[:]
    del node.attribute[:]
    node.input.extend(inputs)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def plain_operators(model: ModelProto, values: Mapping[str, str]) -> ModelProto:
    """A copy with MatMul and Gather on floats in place of the kernels; the model itself where it has none.

    Args:
        model: A model as `pack_operators` leaves it.
        values: By the name of the packed codes the name that the float weight then has.

    Returns:
        The copy.
    """
    if not values:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    made = dict[str, TensorProto]()
    reader = Constants(copy)
    tables = {node.input[0] for node in model.graph.node if (node.domain, node.op_type) == (KERNEL_DOMAIN, TABLE)}
    for node in copy.graph.node:
        if (node.domain, node.op_type) == (KERNEL_DOMAIN, PRODUCT) and node.input[1] in values:
            name = f"{values[node.input[1]]}{'.turned' if node.input[1] in tables else ''}"
            made.setdefault(name, numpy_helper.from_array(decoded_rows(node, stored(node, reader)).T.copy(), name))
            _plain(node, "MatMul", [node.input[0], name])
        elif (node.domain, node.op_type) == (KERNEL_DOMAIN, TABLE) and node.input[0] in values:
            name = values[node.input[0]]
            made.setdefault(name, numpy_helper.from_array(decoded_rows(node, stored(node, reader)), name))
            _plain(node, "Gather", [name, node.input[1]])
    copy.graph.initializer.extend(made.values())
    drop_initializers(copy, set(values) & unread_initializers(copy))
    return copy


def _plain(node: NodeProto, kind: str, inputs: list[str]) -> None:
    _become(node, kind, inputs)
    node.domain = ""


class Constants:
    """Constants of a main graph, also behind Cast and Expand."""

    def __init__(self, model: ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._maker = {name: node for node in model.graph.node for name in node.output}

    def value(self, name: str) -> FloatArray:
        """The array that a name stands for."""
        if name in self._tensors:
            return values_of(self._tensors[name])
        node = self._maker[name]
        if node.op_type == "Reshape":
            return self.value(node.input[0]).reshape(self.value(node.input[1]).tolist())
        if node.op_type == "BitShift":
            return self.value(node.input[0]) >> self.value(node.input[1])
        if node.op_type == "Concat":
            return np.concatenate([self.value(name) for name in node.input], attributes(node)["axis"])
        if node.op_type == "Cast":
            return self.value(node.input[0]).astype(helper.tensor_dtype_to_np_dtype(attributes(node)["to"]))
        return np.broadcast_to(self.value(node.input[0]), tuple(self.value(node.input[1]).tolist()))


Stored = tuple[Codes, FloatArray, Codes]
"""Codes, scales and zero points of a kernel's node, as it reads them."""


def stored(node: NodeProto, constants: Constants) -> Stored:
    """What a kernel's node reads.

    Args:
        node: A MatMulNBits or GatherBlockQuantized node.
        constants: Gives its inputs.

    Returns:
        Codes, scales and zero points, each with a row for each output of a product or row of a table.
    """
    places = (0, 2, 3) if node.op_type == TABLE else (1, 2, 3)
    codes, scales, zeros = (constants.value(node.input[place]) for place in places)
    if scales.ndim == 3:
        return codes.reshape(len(codes), -1), scales[:, :, 0], _pairs(zeros[:, :, 0], attributes(node)["bits"])
    return codes.reshape(len(codes), -1), scales, zeros


def decoded_rows(node: NodeProto, given: Stored, rows: slice = _ALL) -> FloatArray:
    """The weight of a kernel's node, decoded by NumPy.

    Args:
        node: A MatMulNBits or GatherBlockQuantized node.
        given: Its `stored`.
        rows: Which rows.

    Returns:
        Float32: outputs and inputs [N, K] of a product, rows and columns of a table.
    """
    at, (codes, scales, zeros) = attributes(node), given
    flat = _unpacked(codes[rows], at["bits"])
    found = _decoded(flat, scales[rows], _unpacked(zeros[rows], at["bits"]), at["block_size"])
    return found if node.op_type == TABLE else found[:, : at["K"]]


def _pairs(zeros: Codes, bits: int) -> Codes:
    """Zero points in the low bits of a byte each, as they are in rows of codes."""
    return zeros if bits == 8 else packed_rows(np.pad(zeros & 15, ((0, 0), (0, zeros.shape[1] % 2))), bits)


def _unpacked(values: Codes, bits: int) -> Codes:
    """Codes of a row in order, from bytes."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(len(values), -1)


def _decoded(codes: Codes, scales: FloatArray, zeros: Codes, block: int) -> FloatArray:
    length, groups = codes.shape[1], scales.shape[1]
    step, zero = (np.repeat(part[:, :groups], block, axis=1)[:, :length].astype(np.float32) for part in (scales, zeros))
    return (codes.astype(np.float32) - zero) * step
