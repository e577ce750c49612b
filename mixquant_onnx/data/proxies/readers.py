"""Properties of inputs that follow from the operators that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of

_KEEPS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"})

_SAME_SHAPE = frozenset({"Cast", "Identity", "DequantizeLinear"})

Sizes = Mapping[str, tuple[int, ...]]
"""Shapes of stored tensors by name."""


def first_readers(model: ModelProto) -> dict[str, frozenset[str]]:
    """Operators that read each input, directly or through operators that only move it.

    Args:
        model: The model.

    Returns:
        Types of operators by name of the input.
    """
    found: dict[str, set[str]] = {}
    for node, origin in _nodes(model):
        for name in node.input:
            if name in origin:
                found.setdefault(origin[name], set()).add(node.op_type)
    return {name: frozenset(operators) for name, operators in found.items()}


def index_limits(model: ModelProto) -> dict[str, int]:
    """Number of valid indices for each input that is used as an index.

    Args:
        model: The model.

    Returns:
        By name of the input: the size of the table of a Gather, the depth of a OneHot, or the length of a list of ids
        that it is compared with.
    """
    stored = _stored(model)
    sizes = _sizes(model, stored)
    limits: dict[str, int] = {}
    for node, origin in _nodes(model):
        name, limit = _looked_up(node, stored, sizes)
        if name in origin and limit:
            limits[origin[name]] = min(limits.get(origin[name], 1 << 31), limit)
    return limits


def lengths_read(model: ModelProto) -> dict[str, Literal["last", "total"]]:
    """Inputs that GroupQueryAttention reads as lengths.

    Args:
        model: The model.

    Returns:
        By name of the input: `last` for the place of each sequence's last token, `total` for the number of tokens.

    Source:
        com.microsoft.GroupQueryAttention: seqlens_k is input 5, total_sequence_length input 6.
    """
    found: dict[str, Literal["last", "total"]] = {}
    for node, origin in _nodes(model):
        if node.op_type == "GroupQueryAttention":
            last, total = ([*node.input, *[""] * 7][place] for place in (5, 6))
            found |= {origin[last]: "last"} if last in origin else {}
            found |= {origin[total]: "total"} if total in origin else {}
    return found


def colours_of(model: ModelProto) -> dict[str, int]:
    """Channels of each input that a Conv reads.

    Args:
        model: The model.

    Returns:
        Channels by name of the input.

    Source:
        ONNX Conv-11: W is [M, C / group, ...].
    """
    sizes = _sizes(model, _stored(model))
    found: dict[str, int] = {}
    for node, origin in _nodes(model):
        if node.op_type == "Conv" and node.input[0] in origin and node.input[1] in sizes:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            found.setdefault(origin[node.input[0]], sizes[node.input[1]][1] * group)
    return found


def _nodes(model: ModelProto) -> Iterator[tuple[NodeProto, Mapping[str, str]]]:
    """Each node, and for each name so far the input that it is moved from."""
    origin = {value.name: value.name for value in model.graph.input}
    for scope in walk(model):
        for node in scope.body.node:
            yield node, origin
            if node.input and node.input[0] in origin and node.op_type in _KEEPS:
                origin.update(dict.fromkeys(node.output, origin[node.input[0]]))


def _stored(model: ModelProto) -> dict[str, TensorProto]:
    stored: dict[str, TensorProto] = {}
    for scope in walk(model):
        stored.update(tensors_of(scope))
    return stored


def _sizes(model: ModelProto, stored: Mapping[str, TensorProto]) -> Sizes:
    """Shapes of stored tensors, also behind operators that preserve the shape."""
    sizes = {name: tuple(tensor.dims) for name, tensor in stored.items()}
    for scope in walk(model):
        for node in scope.body.node:
            if node.op_type in _SAME_SHAPE and node.input[0] in sizes:
                sizes[node.output[0]] = sizes[node.input[0]]
    return sizes


def _looked_up(node: NodeProto, stored: Mapping[str, TensorProto], sizes: Sizes) -> tuple[str, int]:
    """The input of `node` that is an index, and the number of valid indices."""
    first = node.input[0] if node.input else ""
    if node.op_type in ("Gather", "GatherND") and len(node.input) > 1 and sizes.get(first):
        axis = next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == "axis"), 0)
        return node.input[1], sizes[first][axis]
    if node.op_type == "OneHot" and len(node.input) > 1 and node.input[1] in stored:
        return first, int(values_of(stored[node.input[1]]).reshape(-1)[0])
    if node.op_type == "Equal" and len(sizes.get(node.input[1], ())) > 0:
        entries = max(sizes[node.input[1]])
        return first, entries if entries > 1 else 0
    return "", 0
