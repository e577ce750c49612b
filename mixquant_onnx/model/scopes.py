"""The graphs inside a model: the main one, the bodies of If / Loop / Scan, and model-local functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

Body = GraphProto | FunctionProto
"""What a list of nodes belongs to."""
FunctionKey = tuple[str, str, str]
"""Domain, name and overload."""


@dataclass(eq=False)
class Scope:
    """One list of nodes and the names that are defined there.

    Attributes:
        body: The graph or function.
        path: Its position in the model; "" for the main graph.
        parent: The enclosing scope, where names that are not defined here are looked up.
        defined: Names of inputs, initializers and outputs of nodes.
        position: Its place in `walk`.
    """

    body: Body
    path: str
    parent: Scope | None = None
    defined: set[str] = field(default_factory=set)
    position: int = 0

    @property
    def is_function(self) -> bool:
        """Whether this is the body of a model-local function."""
        return isinstance(self.body, FunctionProto)

    @property
    def in_function(self) -> bool:
        """Whether this scope, or one around it, is the body of a model-local function."""
        return self.is_function or (self.parent is not None and self.parent.in_function)

    def resolve(self, name: str) -> Scope | None:
        """The innermost scope that defines a name, from here outwards.

        Args:
            name: Name of a value.

        Returns:
            The scope; None where no scope defines it.
        """
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
    """The graphs in the attributes of a node.

    Args:
        node: The node.

    Yields:
        (name of the attribute, graph); names of lists of graphs have a position, as in `branches[0]`.
    """
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
    """Every scope of a model.

    Args:
        model: The model.

    Returns:
        Scopes, outer before inner; those of model-local functions last.
    """
    scopes = list(_walk(model.graph, "", None))
    for function in model.functions:
        name = f"{function.name}:{function.overload}" if function.overload else function.name
        scopes += _walk(function, f"{function.domain}::{name}", None)
    for position, scope in enumerate(scopes):
        scope.position = position
    return scopes


def function_key(node: onnx.NodeProto | FunctionProto) -> FunctionKey:
    """The key that a function and its calls share.

    Args:
        node: A function, or a node that may call one.

    Returns:
        (domain, name, overload).
    """
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
    """A generator of unused names.

    Args:
        model: The model.

    Returns:
        A function from a wish to a name that nothing in `model` has yet: the wish itself, or with a number.
    """
    used = used_names(model)

    def fresh(wish: str) -> str:
        name, count = wish, 1
        while name in used:
            name, count = f"{wish}_{count}", count + 1
        used.add(name)
        return name

    return fresh
