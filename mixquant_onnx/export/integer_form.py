"""Rewrite what ONNX Runtime has no integer kernel for by operators that have one; the outputs stay the same."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto

from mixquant_onnx.export.integer_rules import RULES
from mixquant_onnx.export.substitutes import Context, Substitute
from mixquant_onnx.model.dependencies import set_nodes


def to_integer_form(model: ModelProto) -> tuple[Substitute, ...]:
    """Rewrite nodes of the main graph.

    Args:
        model: The float model, of opset 13 or later; it is changed.

    Returns:
        What was replaced.
    """
    context = Context(model)
    found = [made for node in model.graph.node for rule in RULES if (made := rule(node, context)) is not None]
    _swap(model, [((one.before,), one.after) for one in found])
    return tuple(found)


def restore(model: ModelProto, substitutes: Sequence[Substitute]) -> None:
    """Put original nodes back.

    Args:
        model: The model; it is changed.
        substitutes: What is taken out.
    """
    _swap(model, [(one.after, (one.before,)) for one in substitutes])


def _swap(model: ModelProto, changes: Sequence[tuple[Sequence[NodeProto], Sequence[NodeProto]]]) -> None:
    """Take nodes out, and put others where the first of them was."""
    put = {taken[0].output[0]: others for taken, others in changes}
    gone = {name for taken, _ in changes for node in taken for name in node.output}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += put.get(node.output[0], ()) if node.output else ()
        if not gone & set(node.output):
            nodes.append(node)
    set_nodes(model.graph, nodes)
