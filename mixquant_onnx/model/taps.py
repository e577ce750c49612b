"""Values inside a model, made ones of its main graph, also those in branches of If."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from mixquant_onnx.model.scopes import Scope, subgraphs, walk

Place = tuple[str, str]
"""Path of a scope (see `Scope`), and the name of a value that is computed or given there."""

_PREFIX = "mixquant.watch"


def can_watch(scope: Scope) -> bool:
    """Whether the values of `scope` can be given out: the main graph, or branches of If all the way up."""
    while scope.parent is not None:
        if scope.in_function or _owner(scope) is None:
            return False
        scope = scope.parent
    return not scope.is_function


def expose(model: ModelProto, places: Sequence[Place]) -> list[str]:
    """Names in the main graph of the values at `places`, in order: those of branches are handed up by `model`.

    A value of a branch that is not taken is given out empty.
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
    """Hand the value up from branch to branch until it is one of the main graph."""
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
