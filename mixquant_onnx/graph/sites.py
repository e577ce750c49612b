"""Find the weights of a model: constants, followed to the operators that read them as a weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from mixquant_onnx.graph.chains import Step, layout_before, shape_after, step_of
from mixquant_onnx.graph.operators import FOLLOWED, attributes, domain_of, weight_input
from mixquant_onnx.graph.scopes import FunctionKey, Scope, function_key, walk
from mixquant_onnx.types import Layout, Use, WeightSite

FLOAT_TYPES = {
    int(TensorProto.FLOAT): "float32",
    int(TensorProto.FLOAT16): "float16",
    int(TensorProto.BFLOAT16): "bfloat16",
    int(TensorProto.DOUBLE): "float64",
}


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """Where a constant is stored. `node` is the Constant node, None for an initializer."""

    scope: Scope
    name: str
    tensor: TensorProto
    node: NodeProto | None


@dataclass(frozen=True, eq=False, slots=True)
class Reader:
    """A node that reads a constant at the end of a chain of `steps` (none when it reads it directly)."""

    scope: Scope
    node: NodeProto
    index: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False, slots=True)
class LocatedSite:
    """A site with the protobuf objects behind it. `readers` are all its readers, weights or not."""

    site: WeightSite
    source: Source
    readers: tuple[Reader, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """Sites by name in graph order, and each other float tensor over the size limit with its reason."""

    sites: dict[str, LocatedSite]
    skipped: dict[str, str]


class _Index:
    """Who reads which value, and which constants there are."""

    def __init__(self, model: ModelProto) -> None:
        self.scopes = walk(model)
        self.functions: dict[FunctionKey, Scope] = {
            function_key(s.body): s for s in self.scopes if isinstance(s.body, FunctionProto)
        }
        self.readers: dict[tuple[int, str], list[tuple[Scope, NodeProto, int]]] = defaultdict(list)
        self.constants: dict[tuple[int, str], TensorProto] = {}
        for scope in self.scopes:
            for source in _sources(scope):
                self.constants[id(scope), source.name] = source.tensor
            for node in scope.body.node:
                for index, name in enumerate(node.input):
                    home = scope.resolve(name) if name else None
                    if home is not None:
                        self.readers[id(home), name].append((scope, node, index))

    def constant(self, scope: Scope, name: str) -> TensorProto | None:
        home = scope.resolve(name)
        return None if home is None else self.constants.get((id(home), name))

    def terminals(self, scope: Scope, name: str, steps: tuple[Step, ...] = ()) -> Iterator[Reader]:
        for reader_scope, node, index in self.readers.get((id(scope), name), ()):
            function = self.functions.get(function_key(node))
            if function is not None:
                if index < len(function.body.input):
                    yield from self.terminals(function, function.body.input[index], steps)
                continue
            followed = domain_of(node) == "" and node.op_type in FOLLOWED and (index == 0 or node.op_type == "Concat")
            step = step_of(node, partial(self.constant, reader_scope)) if followed else None
            if step is None:
                yield Reader(reader_scope, node, index, steps)
            else:
                for output in node.output:
                    yield from self.terminals(reader_scope, output, (*steps, step))


def _sources(scope: Scope) -> Iterator[Source]:
    body = scope.body
    if isinstance(body, GraphProto):
        for tensor in body.initializer:
            yield Source(scope, tensor.name, tensor, None)
    for node in body.node:
        if node.op_type == "Constant" and domain_of(node) == "":
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    yield Source(scope, node.output[0], attribute.t, node)


def _use_layout(reader: Reader, shape: tuple[int, ...]) -> Layout | None:
    """Axes of the stored tensor as this reader uses them; None when it does not read it as a weight."""
    row = weight_input(reader.node, reader.index)
    if row is None:
        return None
    try:
        after = shape_after(shape, reader.steps)
    except ValueError:
        return Layout(r=len(shape))
    if not after:
        return None
    layout = row.layout(len(after), attributes(reader.node))
    return layout_before(shape, reader.steps, layout) if reader.steps else layout


def label(node: NodeProto) -> str:
    """What messages call a node: its name, or its operator and first output."""
    return node.name or f"{node.op_type}->{next(iter(node.output), '')}"


def _why_not(readers: list[Reader]) -> str:
    if not readers:
        return "no node reads it"
    first = readers[0]
    return f"input {first.index} of {first.node.op_type} is not a weight"


def find(model: ModelProto, min_size: int) -> Found:
    """The weights of `model` with at least `min_size` elements, and why other float tensors are not."""
    index = _Index(model)
    overridable = {v.name for v in model.graph.input} if model.ir_version >= 4 else set()
    names: dict[str, int] = defaultdict(int)
    for scope in index.scopes:
        for source in _sources(scope):
            names[source.name] += 1
    found, skipped = Found({}, {}), {}
    for scope in index.scopes:
        for source in _sources(scope):
            tensor = source.tensor
            shape = tuple(tensor.dims)
            elements = int(np.prod(shape, dtype=np.int64))
            if tensor.data_type not in FLOAT_TYPES or elements < max(min_size, 1):
                continue
            name = source.name if names[source.name] == 1 else f"{scope.path}::{source.name}"
            if scope.parent is None and not scope.is_function and source.name in overridable:
                skipped[name] = "also a graph input: the caller may replace it"
                continue
            readers = list(index.terminals(scope, source.name))
            layouts = [(reader, _use_layout(reader, shape)) for reader in readers]
            uses = [(reader, layout) for reader, layout in layouts if layout is not None]
            if not uses:
                skipped[name] = _why_not(readers)
                continue
            site = WeightSite(
                name=name,
                tensor=source.name,
                scope=scope.path,
                shape=shape,
                dtype=FLOAT_TYPES[tensor.data_type],
                layout=uses[0][1],
                uses=tuple(
                    Use(node=label(r.node), op=r.node.op_type, input=r.index, direct=not r.steps) for r, _ in uses
                ),
            )
            found.sites[name] = LocatedSite(site, source, tuple(readers))
    found.skipped.update(skipped)
    for scope in index.scopes:
        if isinstance(scope.body, GraphProto):
            for sparse in scope.body.sparse_initializer:
                found.skipped[sparse.values.name] = "sparse initializer"
    return found


def weight_values(located: LocatedSite) -> np.ndarray:
    """The stored tensor as a NumPy array of its own type."""
    return onnx.numpy_helper.to_array(located.source.tensor)
