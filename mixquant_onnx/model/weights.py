"""Find the weights of a model: constants, followed to the operators that read them as a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from mixquant_onnx.model.constant_paths import Paths, Reader
from mixquant_onnx.model.constant_steps import layout_before, shape_after
from mixquant_onnx.model.constants import FLOAT_TYPES, Source, elements_of, fixed, label, names_of, sources
from mixquant_onnx.model.operators import attributes, weight_input
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.granularity import WeightAxes


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumer:
    """One reader of a weight.

    Args:
        node: Label of the node.
        op: Its operator.
        input: The input that takes the weight.
        direct: Whether no other node is between.
    """

    node: str
    op: str
    input: int
    direct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightTensor:
    """One stored weight tensor, however many nodes read it.

    Args:
        name: Unique in the model.
        tensor: Its name in its scope.
        scope: Path of the scope that stores it.
        shape: As stored.
        dtype: NumPy name of its type.
        layout: Its axes, as the first reader uses them.
        uses: Its readers that take it as a weight.
    """

    name: str
    tensor: str
    scope: str
    shape: tuple[int, ...]
    dtype: str
    layout: WeightAxes
    uses: tuple[Consumer, ...]

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


__all__ = ["Found", "LocatedWeight", "Reader", "Source", "find", "located_in", "weight_values"]


@dataclass(frozen=True, eq=False, slots=True)
class LocatedWeight:
    """A weight with the protobuf objects behind it. `readers` are all that read the tensor, as a weight or not."""

    site: WeightTensor
    source: Source
    readers: tuple[Reader, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """Weights by name in the order of the graph, and each other float tensor over the size limit with its reason.

    `elements`: of each of these tensors.
    """

    sites: dict[str, LocatedWeight]
    skipped: dict[str, str]
    elements: dict[str, int]

    def at_least(self, min_size: int) -> Found:
        """Those of at least `min_size` elements, as `find` gives them."""
        elements = {name: count for name, count in self.elements.items() if count >= min_size}
        sites = {name: located for name, located in self.sites.items() if name in elements}
        return Found(sites, {name: reason for name, reason in self.skipped.items() if name in elements}, elements)


def _outputs_first(shape: tuple[int, ...]) -> WeightAxes:
    """Axes of a kernel that cannot be followed: outputs are the first axis of more than 1."""
    first = next((axis for axis, size in enumerate(shape) if size > 1), 0)
    return WeightAxes(p=min(first + 1, len(shape) - 1), r=len(shape) - min(first + 1, len(shape) - 1))


def _use_layout(reader: Reader, shape: tuple[int, ...]) -> WeightAxes | None:
    """Axes of the stored tensor as this reader uses them; None when it does not read it as a weight."""
    row = weight_input(reader.node, reader.index)
    if row is None:
        return None
    if any(step.guessed for step in reader.steps) and not row.kernel:
        return None
    try:
        after = shape_after(shape, reader.steps)
    except ValueError:
        return _outputs_first(shape) if row.kernel else WeightAxes(r=len(shape))
    if not after or after[-1] < row.narrowest:
        return None
    layout = row.layout(len(after), attributes(reader.node))
    return layout_before(shape, reader.steps, layout) if reader.steps else layout


def _why_not(source: Source, readers: list[Reader]) -> str:
    if not readers:
        body = source.scope.body
        results = {v.name for v in body.output} if isinstance(body, GraphProto) else set(body.output)
        return "an output of its graph" if source.name in results else "no node reads it"
    first = readers[0]
    if first.node.op_type in ("Loop", "Scan"):
        return f"the start of a value that {first.node.op_type} changes"
    return f"input {first.index} of {first.node.op_type} is not a weight"


def find(model: ModelProto, min_size: int) -> Found:
    """Find the weights of a model.

    Args:
        model: The model.
        min_size: Fewest elements of a weight.

    Returns:
        The weights, and for each other float tensor of that size the reason why it is none.
    """
    paths = Paths(model)
    overridable = {v.name for v in model.graph.input} if model.ir_version >= 4 else set()
    names = names_of(paths.scopes)
    found, skipped = Found({}, {}, {}), {}
    least = max(min_size, 1)
    for scope in paths.scopes:
        for source in sources(scope):
            if source.tensor.data_type not in FLOAT_TYPES or elements_of(source.tensor) < least:
                continue
            name = names[id(scope), source.name]
            found.elements[name] = elements_of(source.tensor)
            if scope.parent is None and not scope.is_function and source.name in overridable:
                skipped[name] = "also a graph input: the caller may replace it"
                continue
            readers = paths.readers_of(source)
            site = _site(name, source, readers)
            if site is None:
                skipped[name] = _why_not(source, readers)
            else:
                found.sites[name] = LocatedWeight(site, source, tuple(readers))
    found.skipped.update(skipped)
    others = [other for other in fixed(paths.scopes) if other.elements >= least]
    found.skipped.update({other.name: other.reason for other in others})
    found.elements.update({other.name: other.elements for other in others})
    return found


def _site(name: str, source: Source, readers: list[Reader]) -> WeightTensor | None:
    """The site of a constant; None where no reader takes it as a weight."""
    shape = tuple(source.tensor.dims)
    layouts = [(reader, _use_layout(reader, shape)) for reader in readers]
    uses = [(reader, layout) for reader, layout in layouts if layout is not None]
    if not uses:
        return None
    return WeightTensor(
        name=name,
        tensor=source.name,
        scope=source.scope.path,
        shape=shape,
        dtype=FLOAT_TYPES[source.tensor.data_type],
        layout=uses[0][1],
        uses=tuple(Consumer(node=label(r.node), op=r.node.op_type, input=r.index, direct=not r.steps) for r, _ in uses),
    )


def located_in(copy: ModelProto, weights: Mapping[str, LocatedWeight]) -> dict[str, LocatedWeight]:
    """The same weights at the same places of a copy of their model.

    Args:
        copy: Has the scopes of the model in the same order, and in each the names of the model's values: a copy, also
            one that was raised to a later opset. A reader of which that made several nodes is the last of them.
        weights: Weights of the model, by name.

    Returns:
        By the same names.
    """
    scopes = walk(copy)
    stored, nodes = dict[int, dict[str, Source]](), dict[int, dict[tuple[str, ...], NodeProto]]()

    def source_in_copy(source: Source) -> Source:
        place = source.scope.position
        if place not in stored:
            stored[place] = {found.name: found for found in sources(scopes[place])}
        return stored[place][source.name]

    def reader_in_copy(reader: Reader) -> Reader:
        place = reader.scope.position
        if place not in nodes:
            nodes[place] = {_identity(node): node for node in scopes[place].body.node}
        return replace(reader, scope=scopes[place], node=nodes[place][_identity(reader.node)])

    return {
        name: LocatedWeight(one.site, source_in_copy(one.source), tuple(map(reader_in_copy, one.readers)))
        for name, one in weights.items()
    }


def _identity(node: NodeProto) -> tuple[str, ...]:
    """What tells a node from the others of its scope: the first value that it gives, or all that it reads."""
    return next(((name,) for name in node.output if name), ("", *node.input))


def weight_values(located: LocatedWeight) -> np.ndarray:
    """The stored tensor as a NumPy array of its own type."""
    return values_of(located.source.tensor)
