"""What the operators that read an input tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.model.scopes import Scope, walk

_KEEPS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"})

_SAME_SHAPE = frozenset({"Cast", "Identity", "DequantizeLinear"})

Sizes = Mapping[str, tuple[int, ...]]
"""Of stored tensors, by name."""


def first_readers(model: ModelProto) -> dict[str, frozenset[str]]:
    """Operators that read each input, also through those that only move it."""
    found: dict[str, set[str]] = {}
    for node, origin in _nodes(model):
        for name in node.input:
            if name in origin:
                found.setdefault(origin[name], set()).add(node.op_type)
    return {name: frozenset(operators) for name, operators in found.items()}


def index_limits(model: ModelProto) -> dict[str, int]:
    """For each integer input that ends up as indices of a Gather or a OneHot, or compared with a list of ids: how many
    different ones there are."""
    stored = _stored(model)
    sizes = _sizes(model, stored)
    limits: dict[str, int] = {}
    for node, origin in _nodes(model):
        name, limit = _looked_up(node, stored, sizes)
        if name in origin and limit:
            limits[origin[name]] = min(limits.get(origin[name], 1 << 31), limit)
    return limits


def colours_of(model: ModelProto) -> dict[str, int]:
    """For each input that a Conv reads: its channels (ONNX Conv: W is [M, C / group, ...])."""
    sizes = _sizes(model, _stored(model))
    found: dict[str, int] = {}
    for node, origin in _nodes(model):
        if node.op_type == "Conv" and node.input[0] in origin and node.input[1] in sizes:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            found.setdefault(origin[node.input[0]], sizes[node.input[1]][1] * group)
    return found


def _nodes(model: ModelProto) -> Iterator[tuple[NodeProto, Mapping[str, str]]]:
    """Each node, and the input that each name so far is moved from."""
    origin = {value.name: value.name for value in model.graph.input}
    for scope in walk(model):
        for node in scope.body.node:
            yield node, origin
            if node.input and node.input[0] in origin and node.op_type in _KEEPS:
                origin.update(dict.fromkeys(node.output, origin[node.input[0]]))


def _stored(model: ModelProto) -> dict[str, TensorProto]:
    stored: dict[str, TensorProto] = {}
    for scope in walk(model):
        stored.update({tensor.name: tensor for tensor in getattr(scope.body, "initializer", ())})
        stored.update(_constants(scope))
    return stored


def _constants(scope: Scope) -> Iterator[tuple[str, TensorProto]]:
    for node in scope.body.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t


def _sizes(model: ModelProto, stored: Mapping[str, TensorProto]) -> Sizes:
    """Of stored tensors, also behind operators that keep the shape."""
    sizes = {name: tuple(tensor.dims) for name, tensor in stored.items()}
    for scope in walk(model):
        for node in scope.body.node:
            if node.op_type in _SAME_SHAPE and node.input[0] in sizes:
                sizes[node.output[0]] = sizes[node.input[0]]
    return sizes


def _looked_up(node: NodeProto, stored: Mapping[str, TensorProto], sizes: Sizes) -> tuple[str, int]:
    """The input of `node` that is an index, and the number of entries that it can name."""
    first = node.input[0] if node.input else ""
    if node.op_type in ("Gather", "GatherND") and len(node.input) > 1 and sizes.get(first):
        axis = next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == "axis"), 0)
        return node.input[1], sizes[first][axis]
    if node.op_type == "OneHot" and len(node.input) > 1 and node.input[1] in stored:
        return first, int(numpy_helper.to_array(stored[node.input[1]]).reshape(-1)[0])
    if node.op_type == "Equal" and len(sizes.get(node.input[1], ())) > 0:
        entries = max(sizes[node.input[1]])
        return first, entries if entries > 1 else 0
    return "", 0
