"""Size of tensors, nodes and functions in a serialized model (protobuf encoding), with their framing."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.export.encodings.builder import Encoded
from mixquant_onnx.model.external import OUTSIDE_FROM, copy_fields
from mixquant_onnx.model.tensor_data import is_outside, outside_nbytes, raw_nbytes

_NAME_OF_EXTERNAL_FILE = 64
_POINTER = sum(len(key) + 6 for key in ("location", "offset", "length")) + _NAME_OF_EXTERNAL_FILE + 24
"""Bytes of the entry for a tensor's position in the external file."""


def framed(size: int) -> int:
    """Size of a field that holds a message or bytes: the tag (1 byte, fields 1 to 15), the length, the content.

    Args:
        size: Bytes of the content.

    Returns:
        Bytes.

    Source:
        Protocol Buffers encoding, wire type 2.
    """
    return 1 + max(-(-size.bit_length() // 7), 1) + size


def tensor_bytes(tensor: TensorProto, external: bool = False) -> int:
    """Size of a TensorProto and its data, wherever that is stored; without its own framing.

    Args:
        tensor: The tensor, or an outline without data.
        external: Whether large data goes to another file.

    Returns:
        Bytes in both files.
    """
    data = raw_nbytes(tensor)
    inside = int(_header(tensor).ByteSize())
    return inside + data + _POINTER if external and data >= OUTSIDE_FROM else inside + framed(data)


def _header(tensor: TensorProto) -> TensorProto:
    """The tensor without values that are in `raw_data` or in a file."""
    if not tensor.HasField("raw_data") and not is_outside(tensor):
        return tensor
    made = TensorProto()
    copy_fields(tensor, made, {"raw_data", "external_data"})
    return made


def initializer_bytes(tensor: TensorProto, external: bool = False) -> int:
    """Size of a tensor in the list of initializers of a graph.

    Args:
        tensor: The tensor, or an outline without data.
        external: Whether large data goes to another file.

    Returns:
        Bytes in both files.
    """
    return framed(tensor_bytes(tensor, external))


def constant_bytes(tensor: TensorProto) -> int:
    """Size of a Constant node.

    Args:
        tensor: Its value; the name of the tensor is that of its output.

    Returns:
        Bytes.
    """
    attribute = AttributeProto(name="value", type=AttributeProto.TENSOR).ByteSize()
    value = tensor_bytes(tensor) - (framed(len(tensor.name)) if tensor.name else 0)
    node = helper.make_node("Constant", [], [tensor.name]).ByteSize()
    return framed(node + framed(attribute + framed(value)))


def node_bytes(node: NodeProto) -> int:
    """Size of a node in the list of nodes of a graph."""
    return framed(node.ByteSize())


def function_bytes(function: FunctionProto) -> int:
    """Size of a function in the list of functions of a model (field 25: a tag of 2 bytes)."""
    return 1 + framed(function.ByteSize())


def stored_bytes(tensor: TensorProto, in_graph: bool, external: bool = False) -> int:
    """Size of a tensor as an initializer of a graph, or as a Constant node of a function."""
    return initializer_bytes(tensor, external) if in_graph else constant_bytes(tensor)


def encoded_bytes(encoded: Encoded, in_graph: bool, external: bool = False) -> int:
    """Size of the tensors and nodes of one weight, without the functions and tables that it shares with others.

    Args:
        encoded: The weight.
        in_graph: Whether tensors are initializers of a graph, or Constant nodes of a function.
        external: Whether large data goes to another file.

    Returns:
        Bytes in both files.
    """
    tensors = (stored_bytes(tensor, in_graph, external) for tensor in encoded.tensors)
    return sum(tensors) + sum(map(node_bytes, encoded.nodes))


def model_bytes(model: ModelProto, external: bool) -> int:
    """Size of a model.

    Args:
        model: The model.
        external: Whether large tensors go to another file.

    Returns:
        Bytes in both files.
    """
    tensors = model.graph.initializer
    outside = sum(t.HasField("raw_data") and raw_nbytes(t) >= OUTSIDE_FROM for t in tensors) if external else 0
    return int(model.ByteSize()) + outside_nbytes(model) + outside * _POINTER


def bits_per_weight(nbytes: int, elements: int) -> float:
    """Average number of bits per weight.

    Args:
        nbytes: Size of all weights in bytes.
        elements: Number of weights.

    Returns:
        Bits; 0 where there are no weights.
    """
    return 8 * nbytes / elements if elements else 0.0
