"""The graphs inside a model: the main one, the bodies of If / Loop / Scan, and model-local functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

Body = GraphProto | FunctionProto
FunctionKey = tuple[str, str, str]
"""Domain, name and overload."""


@dataclass(eq=False)
class Scope:
    """One list of nodes. Names that are not defined here are looked up in `parent`. `position`: its place in `walk`."""

    body: Body
    path: str
    parent: Scope | None = None
    defined: set[str] = field(default_factory=set)
    position: int = 0

    @property
    def is_function(self) -> bool:
        return isinstance(self.body, FunctionProto)

    @property
    def in_function(self) -> bool:
        return self.is_function or (self.parent is not None and self.parent.in_function)

    def resolve(self, name: str) -> Scope | None:
        """The innermost scope, from here outwards, that defines `name`."""
        if name in self.defined:
            return self
        return None if self.parent is None else self.parent.resolve(name)


def _definitions(body: Body) -> set[str]:
    names = {output for node in body.node for output in node.output}
    if isinstance(body, FunctionProto):
        return names | set(body.input)
    names.update(value.name for value in body.input)
    names.update(tensor.name for tensor in body.initializer)
    names.update(sparse.values.name for sparse in body.sparse_initializer)
    return names


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for position, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{position}]", graph


def _walk(body: Body, path: str, parent: Scope | None) -> Iterator[Scope]:
    scope = Scope(body, path, parent, _definitions(body))
    yield scope
    for node in body.node:
        for name, graph in subgraphs(node):
            label = node.name or f"{node.op_type}->{next(iter(node.output), '')}"
            yield from _walk(graph, f"{path}/{label}.{name}" if path else f"{label}.{name}", scope)


def walk(model: ModelProto) -> list[Scope]:
    """Every scope of `model`, outer before inner."""
    scopes = list(_walk(model.graph, "", None))
    for function in model.functions:
        name = f"{function.name}:{function.overload}" if function.overload else function.name
        scopes += _walk(function, f"{function.domain}::{name}", None)
    for position, scope in enumerate(scopes):
        scope.position = position
    return scopes


def function_key(node: onnx.NodeProto | FunctionProto) -> FunctionKey:
    name = node.name if isinstance(node, FunctionProto) else node.op_type
    return node.domain, name, node.overload


def used_names(model: ModelProto) -> set[str]:
    """Every name of a value or a node, in any scope."""
    names: set[str] = set()
    for scope in walk(model):
        names |= scope.defined
        for node in scope.body.node:
            names.add(node.name)
            names.update(node.input)
    return names


def fresh_names(model: ModelProto) -> Callable[[str], str]:
    """Gives names that nothing in `model` has yet: the one wished for, or that with a number."""
    used = used_names(model)

    def fresh(wish: str) -> str:
        name, count = wish, 1
        while name in used:
            name, count = f"{wish}_{count}", count + 1
        used.add(name)
        return name

    return fresh
