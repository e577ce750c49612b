"""Find the weights of a model: constants, followed to the operators that read them as a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto

from mixquant_onnx.model.constant_paths import Paths, Reader
from mixquant_onnx.model.constant_steps import layout_before, shape_after
from mixquant_onnx.model.constants import FLOAT_TYPES, Source, elements_of, fixed, label, names_of, sources
from mixquant_onnx.model.operators import attributes, weight_input
from mixquant_onnx.numerics.granularity import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
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
class WeightSite:
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
    layout: Layout
    uses: tuple[Use, ...]

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


__all__ = ["Found", "LocatedSite", "Reader", "Source", "find", "weight_values"]


@dataclass(frozen=True, eq=False, slots=True)
class LocatedSite:
    """A weight with the protobuf objects behind it. `readers` are all that read the tensor, as a weight or not."""

    site: WeightSite
    source: Source
    readers: tuple[Reader, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """Weights by name in the order of the graph, and each other float tensor over the size limit with its reason."""

    sites: dict[str, LocatedSite]
    skipped: dict[str, str]


def _outputs_first(shape: tuple[int, ...]) -> Layout:
    """Axes of a kernel that cannot be followed: outputs are the first axis of more than 1."""
    first = next((axis for axis, size in enumerate(shape) if size > 1), 0)
    return Layout(p=min(first + 1, len(shape) - 1), r=len(shape) - min(first + 1, len(shape) - 1))


def _use_layout(reader: Reader, shape: tuple[int, ...]) -> Layout | None:
    """Axes of the stored tensor as this reader uses them; None when it does not read it as a weight."""
    row = weight_input(reader.node, reader.index)
    if row is None:
        return None
    if any(step.guessed for step in reader.steps) and not row.kernel:
        return None
    try:
        after = shape_after(shape, reader.steps)
    except ValueError:
        return _outputs_first(shape) if row.kernel else Layout(r=len(shape))
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
    found, skipped = Found({}, {}), {}
    least = max(min_size, 1)
    for scope in paths.scopes:
        for source in sources(scope):
            if source.tensor.data_type not in FLOAT_TYPES or elements_of(source.tensor) < least:
                continue
            name = names[id(scope), source.name]
            if scope.parent is None and not scope.is_function and source.name in overridable:
                skipped[name] = "also a graph input: the caller may replace it"
                continue
            readers = paths.readers_of(source)
            site = _site(name, source, readers)
            if site is None:
                skipped[name] = _why_not(source, readers)
            else:
                found.sites[name] = LocatedSite(site, source, tuple(readers))
    found.skipped.update(skipped)
    found.skipped.update({other.name: other.reason for other in fixed(paths.scopes) if other.elements >= least})
    return found


def _site(name: str, source: Source, readers: list[Reader]) -> WeightSite | None:
    """The site of a constant; None where no reader takes it as a weight."""
    shape = tuple(source.tensor.dims)
    layouts = [(reader, _use_layout(reader, shape)) for reader in readers]
    uses = [(reader, layout) for reader, layout in layouts if layout is not None]
    if not uses:
        return None
    return WeightSite(
        name=name,
        tensor=source.name,
        scope=source.scope.path,
        shape=shape,
        dtype=FLOAT_TYPES[source.tensor.data_type],
        layout=uses[0][1],
        uses=tuple(Use(node=label(r.node), op=r.node.op_type, input=r.index, direct=not r.steps) for r, _ in uses),
    )


def weight_values(located: LocatedSite) -> np.ndarray:
    """The stored tensor as a NumPy array of its own type."""
    return onnx.numpy_helper.to_array(located.source.tensor)
