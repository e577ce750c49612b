"""Rewrite what ONNX Runtime has no integer kernel for by operators that have one; the outputs stay the same.

Hard-swish is a sum with a constant, clipped, and a product: QLinearAdd, whose codes clip, and QLinearMul. A mean over
an image is a GlobalAveragePool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.shapes import shape_of
from mixquant_onnx.model.skeleton import types_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Substitute:
    """Nodes that compute a value in place of others.

    Attributes:
        result: The value; its name stays.
        before: The original nodes, in the order of the graph.
        after: What replaced them.
    """

    result: str
    before: tuple[NodeProto, ...]
    after: tuple[NodeProto, ...]


class _Context:
    """What rules look up, and what they add."""

    def __init__(self, model: ModelProto) -> None:
        self.graph, self.fresh = model.graph, fresh_names(model)
        self._types = types_of(model)
        self._stored: dict[float, str] = {}

    def is_float(self, name: str) -> bool:
        """Whether a value is known to be float32."""
        return name in self._types and self._types[name].type.tensor_type.elem_type == TensorProto.FLOAT

    def rank(self, name: str) -> int | None:
        """Number of axes of a value, where it is known."""
        shape = shape_of(self._types[name]) if name in self._types else None
        return None if shape is None else len(shape)

    def constant(self, value: float) -> str:
        """The name of a scalar, stored once."""
        if value not in self._stored:
            name = self._stored[value] = self.fresh(f"mixquant.{value:g}")
            self.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return self._stored[value]


Rule = Callable[[NodeProto, _Context], Substitute | None]


def to_integer_form(model: ModelProto) -> tuple[Substitute, ...]:
    """Rewrite nodes of the main graph.

    Args:
        model: The float model, of opset 13 or later; it is changed.

    Returns:
        What was replaced.

    Source:
        ONNX HardSwish-14, HardSigmoid-6, ReduceMean-18, GlobalAveragePool-1.
    """
    context = _Context(model)
    found = [made for node in model.graph.node for rule in _RULES if (made := rule(node, context)) is not None]
    _swap(model, {one.result: (one.before, one.after) for one in found})
    return tuple(found)


def restore(model: ModelProto, substitutes: Sequence[Substitute]) -> None:
    """Put original nodes back.

    Args:
        model: The model; it is changed.
        substitutes: What is taken out.
    """
    _swap(model, {one.result: (one.after, one.before) for one in substitutes})


def _swap(model: ModelProto, changes: Mapping[str, tuple[Sequence[NodeProto], Sequence[NodeProto]]]) -> None:
    """Take nodes out, and put others where the one was that gives the result."""
    gone = {name for out, _ in changes.values() for node in out for name in node.output}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        for name in node.output:
            nodes += changes[name][1] if name in changes else ()
        if not gone & set(node.output):
            nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def drop_unread(model: ModelProto, original: ModelProto) -> None:
    """Take out the initializers that no node reads any more.

    Args:
        model: The model; it is changed.
        original: What it was made of; initializers that are not read there either are kept.
    """
    before = {tensor.name for tensor in original.graph.initializer} - _read(original)
    used = _read(model) | before
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:
            del model.graph.initializer[index]


def _read(model: ModelProto) -> set[str]:
    names = {value.name for value in [*model.graph.output, *model.graph.input]}
    return names.union(*(reads(node) for node in model.graph.node))


def _copied(nodes: Sequence[NodeProto]) -> tuple[NodeProto, ...]:
    return tuple(NodeProto.FromString(node.SerializeToString()) for node in nodes)


def _hard_sigmoid(x: str, alpha: float, beta: float, result: str, context: _Context) -> Iterator[NodeProto]:
    """Clip(x + beta / alpha, 0, 1 / alpha) * alpha: the product goes into the scale of the codes."""
    total, clipped = context.fresh(f"{result}.sum"), context.fresh(f"{result}.clipped")
    zero, top = context.constant(0.0), context.constant(float(np.float32(1 / alpha)))
    yield helper.make_node("Add", [x, context.constant(float(np.float32(beta / alpha)))], [total])
    yield helper.make_node("Clip", [total, zero, top], [clipped])
    yield helper.make_node("Mul", [clipped, context.constant(alpha)], [result])


def _of_hard_sigmoid(node: NodeProto, context: _Context) -> Substitute | None:
    if node.op_type != "HardSigmoid" or domain_of(node) or not context.is_float(node.input[0]):
        return None
    given = {a.name: float(a.f) for a in node.attribute}
    alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
    if not (alpha > 0 and beta > 0):
        return None
    after = tuple(_hard_sigmoid(node.input[0], alpha, beta, node.output[0], context))
    return Substitute(result=node.output[0], before=_copied([node]), after=after)


def _of_hard_swish(node: NodeProto, context: _Context) -> Substitute | None:
    if node.op_type != "HardSwish" or domain_of(node) or not context.is_float(node.input[0]):
        return None
    gate = context.fresh(f"{node.output[0]}.gate")
    nodes = tuple(_hard_sigmoid(node.input[0], 1 / 6, 0.5, gate, context))
    product = helper.make_node("Mul", [node.input[0], gate], [node.output[0]])
    return Substitute(result=node.output[0], before=_copied([node]), after=(*nodes, product))


def _of_mean(node: NodeProto, context: _Context) -> Substitute | None:
    if node.op_type != "ReduceMean" or domain_of(node) or context.rank(node.input[0]) != 4:
        return None
    if any(a.name == "keepdims" and not a.i for a in node.attribute):
        return None
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1:
        axes = next((numpy_helper.to_array(t).tolist() for t in context.graph.initializer if t.name == node.input[1]),
                    None)  # fmt: skip
    if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    after = helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]])
    return Substitute(result=node.output[0], before=_copied([node]), after=(after,))


_RULES: tuple[Rule, ...] = (_of_hard_sigmoid, _of_hard_swish, _of_mean)
