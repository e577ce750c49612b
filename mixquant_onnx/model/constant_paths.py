"""Trace constants to the nodes that read them, through operators, functions, If, Loop and Scan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from mixquant_onnx.model.constant_steps import Step, scaling_step, shape_after, step_of
from mixquant_onnx.model.constants import Source, sources
from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.model.operators import attributes, domain_of, operator_of
from mixquant_onnx.model.scopes import FunctionKey, Scope, function_key, subgraphs, walk
from mixquant_onnx.model.shapes import Shape, Shapes

Call = tuple[Scope, NodeProto]
"""A function call: the scope of the calling node, and the node."""


@dataclass(frozen=True, eq=False, slots=True)
class Reader:
    """A node that reads a constant.

    Attributes:
        scope: Scope of the node.
        node: The node.
        index: Position of the constant among its inputs.
        steps: Operators between the constant and the node, in order; empty where it is read directly.
    """

    scope: Scope
    node: NodeProto
    index: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _At:
    """A value on the path from a constant of `shape`, inside the functions entered by `calls`."""

    scope: Scope
    name: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()
    calls: tuple[Call, ...] = ()

    def then(self, scope: Scope, name: str, *steps: Step) -> _At:
        return replace(self, scope=scope, name=name, steps=(*self.steps, *steps))


class Paths:
    """Which constants a model has, and which nodes read each value.

    Args:
        model: The model; not changed.
    """

    def __init__(self, model: ModelProto) -> None:
        self.scopes = walk(model)
        self._shapes = Shapes(model)
        self._bodies = {id(s.body): s for s in self.scopes}
        self._functions: dict[FunctionKey, Scope] = {
            function_key(s.body): s for s in self.scopes if isinstance(s.body, FunctionProto)
        }
        self._calls: dict[int, list[Call]] = defaultdict(list)
        self._owners: dict[int, Call] = {}
        self._readers: dict[tuple[int, str], list[tuple[Scope, NodeProto, int]]] = defaultdict(list)
        self._constants: dict[tuple[int, str], TensorProto] = {}
        self._producers: dict[tuple[int, str], NodeProto] = {}
        for scope in self.scopes:
            for source in sources(scope):
                self._constants[id(scope), source.name] = source.tensor
            for node in scope.body.node:
                self._add(scope, node)

    def _add(self, scope: Scope, node: NodeProto) -> None:
        function = self._functions.get(function_key(node))
        if function is not None:
            self._calls[id(function)].append((scope, node))
        for _, graph in subgraphs(node):
            self._owners[id(graph)] = (scope, node)
        for name in node.output:
            self._producers[id(scope), name] = node
        for index, name in enumerate(node.input):
            home = scope.resolve(name) if name else None
            if home is not None:
                self._readers[id(home), name].append((scope, node, index))

    def readers_of(self, source: Source) -> list[Reader]:
        """All readers of a constant, whether they use it as a weight or not.

        Args:
            source: The constant.

        Returns:
            Readers in the order of the graph; one entry for each path.
        """
        return list(self._from(_At(scope=source.scope, name=source.name, shape=tuple(source.tensor.dims))))

    def _from(self, at: _At) -> Iterator[Reader]:
        for scope, node, index in self._readers.get((id(at.scope), at.name), ()):
            yield from self._through(at, scope, node, index)
        yield from self._returned(at)

    def _through(self, at: _At, scope: Scope, node: NodeProto, index: int) -> Iterator[Reader]:
        function = self._functions.get(function_key(node))
        if function is not None:
            if index < len(function.body.input):
                inside = replace(at, scope=function, name=str(function.body.input[index]))
                yield from self._from(replace(inside, calls=(*at.calls, (scope, node))))
            return
        ways = None
        if domain_of(node) == "" and node.op_type in ("Loop", "Scan"):
            ways = self._iterated(at, scope, node, index)
        elif step := self._step(at, scope, node, index):
            ways = [at.then(scope, output, step) for output in node.output]
        if ways is None:
            yield Reader(scope, node, index, at.steps)
        for way in ways or ():
            yield from self._from(way)

    def _step(self, at: _At, scope: Scope, node: NodeProto, index: int) -> Step | None:
        path = operator_of(node).path
        if path == "moves" and (index == 0 or node.op_type == "Concat"):
            return step_of(node, partial(self.constant, scope))
        if path != "scales" or (node.op_type == "Div" and index == 1) or len(node.input) != 2:
            return None
        try:
            shape = shape_after(at.shape, at.steps)
        except ValueError:
            return None
        name = node.input[1 - index]
        home = scope.resolve(name)
        stored = self.constant(scope, name)
        other: Shape | None = None
        if stored is not None:
            other = tuple(stored.dims)
        elif home is not None and sum(n > 1 for n in shape) > 1:
            other = self._shapes.of(home, name)
        else:
            return None
        return scaling_step(node.op_type, shape, other, stored is not None or not self._moving(scope, name))

    def _iterated(self, at: _At, scope: Scope, node: NodeProto, index: int) -> list[_At] | None:
        """Paths into the body of a Loop or Scan; None where the body changes the value.

        Source:
            ONNX Loop-1 and Scan-9; a value is followed if it is carried unchanged, or scanned along an axis.
        """
        graph = next((g for name, g in subgraphs(node) if name == "body"), None)
        if graph is None:
            return None
        body, given = self._bodies[id(graph)], attributes(node)
        scanned = int(given.get("num_scan_inputs", 0))
        first = 2 if node.op_type == "Loop" else 0
        carried = len(node.input) - first - scanned
        if node.op_type == "Scan" and len(graph.input) != len(node.input):
            return None  # Scan of opset 8 has another input
        inner = graph.input[index].name
        if index < first:
            return None
        if index >= first + carried:
            axes = given.get("scan_input_axes") or [0] * scanned
            axis = int(axes[index - first - carried])
            return [at.then(body, inner, Step("Scan", lambda x: np.take(x, 0, axis)))]
        position = index - first
        result = graph.output[position + (1 if node.op_type == "Loop" else 0)].name
        if self._origin(body, result) != (id(body), inner):
            return None
        kept = Step(node.op_type, lambda x: x)
        return [at.then(body, inner, kept), at.then(scope, node.output[position], kept)]

    def _origin(self, scope: Scope, name: str) -> tuple[int, str] | None:
        """The value that `name` is a copy of, through Identity nodes."""
        home = scope.resolve(name)
        while home is not None:
            node = self._producers.get((id(home), name))
            if node is None or node.op_type != "Identity" or domain_of(node) != "":
                return id(home), name
            name = node.input[0]
            home = home.resolve(name)
        return None

    def _returned(self, at: _At) -> Iterator[Reader]:
        """Paths out of a function to its callers, and out of a branch of If."""
        body = at.scope.body
        steps: tuple[Step, ...] = ()
        calls = at.calls
        if isinstance(body, FunctionProto):
            callers = [calls[-1]] if calls else self._calls[id(at.scope)]
            calls, names = calls[:-1], list(body.output)
        elif id(body) in self._owners and self._owners[id(body)][1].op_type == "If":
            callers, names = [self._owners[id(body)]], [value.name for value in body.output]
            steps = (Step("If", lambda x: x),)
        else:
            return
        for scope, node in callers:
            for name, output in zip(names, node.output, strict=False):
                if name == at.name and output:
                    yield from self._from(replace(at.then(scope, output, *steps), calls=calls))

    def constant(self, scope: Scope, name: str) -> TensorProto | None:
        """The constant that `name` refers to.

        Args:
            scope: Scope in which the name is read.
            name: Name of a value.

        Returns:
            The stored tensor; None where the value is computed or given.
        """
        home = scope.resolve(name)
        return None if home is None else self._constants.get((id(home), name))

    def _moving(self, scope: Scope, name: str) -> bool:
        """Whether a value depends, or may depend, on an input of the model."""
        waiting, seen = [(scope, name)], set()
        while waiting:
            scope, name = waiting.pop()
            home = scope.resolve(name)
            if home is None:
                return True
            if (id(home), name) in seen or (id(home), name) in self._constants:
                continue
            seen.add((id(home), name))
            node = self._producers.get((id(home), name))
            if node is None:
                return True
            waiting += [(home, read) for read in reads(node) if home.resolve(read) is not None]
        return False
