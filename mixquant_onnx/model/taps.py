"""Expose values inside a model as outputs of its main graph, also values in branches of If."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.model.scopes import Scope, subgraphs, walk

Place = tuple[str, str]
"""Path of a scope (see `Scope`), and the name of a value that is computed or given there."""

_PREFIX = "mixquant.watch"


def can_expose(scope: Scope) -> bool:
    """Whether values of a scope can be exposed.

    Args:
        scope: The scope.

    Returns:
        True for the main graph, and for branches of If all the way up.
    """
    while scope.parent is not None:
        if scope.in_function or _owner(scope) is None:
            return False
        scope = scope.parent
    return not scope.is_function


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy of a model that gives values of its main graph too.

    Args:
        model: The model.
        names: The values.

    Returns:
        The copy; values that are outputs already are not repeated.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    return copy


def expose(model: ModelProto, places: Sequence[Place]) -> list[str]:
    """Make values inside of branches available in the main graph.

    Args:
        model: Changed: branches get outputs, which their If nodes return. A branch that is not taken returns an empty
            value.
        places: The values.

    Returns:
        Their names in the main graph, in order.
    """
    scopes = {scope.path: scope for scope in walk(model)}
    return [_give_out(scopes, path, name, f"{_PREFIX}.{k}") for k, (path, name) in enumerate(places)]


def _owner(scope: Scope) -> NodeProto | None:
    """The If node that `scope` is a branch of."""
    if scope.parent is None:
        return None
    nodes: Sequence[NodeProto] = scope.parent.body.node
    for node in nodes:
        if node.op_type == "If" and any(graph is scope.body for _, graph in subgraphs(node)):
            return node
    return None


def _give_out(scopes: dict[str, Scope], path: str, name: str, fresh: str) -> str:
    """Return the value from branch to branch up to the main graph."""
    scope = scopes[path]
    if scope.parent is None:
        return name
    node = _owner(scope)
    assert node is not None and scope.parent is not None
    inner, outer = f"{fresh}.in", f"{fresh}.{len(path)}"
    for _, branch in subgraphs(node):
        if branch is scope.body:
            branch.node.append(helper.make_node("Identity", [name], [inner]))
        else:
            nothing = helper.make_tensor("value", TensorProto.FLOAT, [0], [])
            branch.node.append(helper.make_node("Constant", [], [inner], value=nothing))
        branch.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))
    node.output.append(outer)
    return _give_out(scopes, scope.parent.path, outer, f"{fresh}.up")
