"""The values that are rounded to 8 bits, so that ONNX Runtime runs the nodes around them on integer kernels.

ONNX Runtime replaces DequantizeLinear -> operator -> QuantizeLinear by an integer operator. A value that only one side
of which is integer costs a conversion and gains nothing; such values are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from mixquant_onnx.model.operators import attributes, domain_of
from mixquant_onnx.model.weights import LocatedWeight, Reader
from mixquant_onnx.quantization.activations.value_graph import ValueGraph

_OF_ALL_INPUTS = frozenset({"Add", "Mul", "Concat"})
"""Operators with an integer kernel (QLinearAdd, QLinearMul, QLinearConcat) where all inputs are activations."""

_OWN_GRID = frozenset({"GlobalAveragePool", "Sigmoid", "LeakyRelu"})
"""Operators of one input with an integer kernel whose result has another range."""

_LARGE_PRODUCT = 1 << 16
_SMALL_PRODUCT = 1 << 13
_MANY_ROWS = 32
"""Weights of a product from which on integers are faster than float with one row, and with many
(docs/research/activations.md): below, rounding the input takes longer than the product."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedValue:
    """A value that is rounded to 8 bits.

    Attributes:
        name: Its name in the main graph.
        grid: The value whose grid it has; its own name, or that of a value it is a part of.
        readers: First outputs of the nodes that read it rounded; None for all of them, and for a graph output too.
        floor: Lower values do what this one does, so that the range needs not hold them.
    """

    name: str
    grid: str
    readers: frozenset[str] | None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a model is rounded.

    Attributes:
        values: The rounded values, in the order of the graph.
        layers: Names of the weights whose layers run on integers, by the first output of their nodes.
    """

    values: tuple[RoundedValue, ...] = ()
    layers: Mapping[str, str]


INTEGER_OPERATORS = frozenset({"Conv", "MatMul", "Gemm"})
"""Operators with a weight that ONNX Runtime has integer kernels for."""

PRODUCTS = frozenset({"MatMul", "Gemm"})
"""Those of them whose kernels take the range of the input of each run (DynamicQuantizeMatMul)."""


def place(
    model: ModelProto,
    weights: Mapping[str, LocatedWeight],
    excluded: Collection[str] = (),
    operators: Collection[str] = INTEGER_OPERATORS,
    rows: Mapping[str, float] | None = None,
    unusable: Collection[str] = (),
) -> Placement:
    """Choose the values to round.

    Args:
        model: The float model.
        weights: Its weights that are quantized, by name.
        excluded: Names of weights whose layers stay in float.
        operators: Those that may run on integers.
        rows: Rows of the first operand of products by the name of the operand, so that small products stay in float;
            one where that is not known. None: products of any size run on integers.
        unusable: Names of values that cannot be rounded.

    Returns:
        The placement; without values where no layer can run on integers.
    """
    graph = ValueGraph(model)
    layers: dict[str, str] = {}
    for name, located in weights.items():
        suitable = name not in excluded and located.site.dtype == "float32" and _one_form(located)
        if suitable and all(_integer(reader, located, graph, operators, rows) for reader in located.readers):
            layers.update((reader.node.output[0], name) for reader in located.readers)
    spoilt = {layers[name] for name in layers if _touches(graph.maker[name], graph, unusable)}
    layers = {name: weight for name, weight in layers.items() if weight not in spoilt}
    rounded = _rounded(graph, layers)
    joined = _joined(graph, layers, rounded, unusable)
    return Placement(values=_values(graph, layers, joined), layers=layers)


def layers_at(model: ModelProto, placement: Placement, values: Collection[str]) -> set[str]:
    """The layers around values.

    Args:
        model: The float model.
        placement: Where it is rounded.
        values: Names of rounded values.

    Returns:
        Weights whose layers read one of the values, or whose kernels give it as codes, perhaps through another node.
    """
    near, layers = set(values), set[str]()
    for node in model.graph.node:
        if near & set(node.output):
            near.update(node.input)
    for node in model.graph.node:
        if node.output and node.output[0] in placement.layers:
            gives = node.op_type == "Conv" and node.output[0] in near
            if gives or node.input[0] in values:
                layers.add(placement.layers[node.output[0]])
    return layers


def _one_form(located: LocatedWeight) -> bool:
    """Whether all readers take a weight the same way round."""
    return len({bool(attributes(reader.node).get("transB", 0)) for reader in located.readers}) == 1


def _touches(node: NodeProto, graph: ValueGraph, values: Collection[str]) -> bool:
    return node.input[0] in values or (node.op_type == "Conv" and graph.result(node) in values)


def _integer(
    reader: Reader,
    located: LocatedWeight,
    graph: ValueGraph,
    operators: Collection[str],
    rows: Mapping[str, float] | None,
) -> bool:
    """Whether a node that reads a weight has an integer kernel: the weight is its second input, as it is stored."""
    node, site = reader.node, located.site
    if reader.scope.parent is not None or reader.scope.is_function or reader.steps or reader.index != 1:
        return False
    if node.op_type not in operators or domain_of(node) or node.input[0] in graph.constants:
        return False
    if node.op_type == "Conv":
        # ONNX Runtime folds a BatchNormalization into the convolution, unless a rounding is between them.
        after = graph.readers.get(node.output[0], [])
        return not any(other.op_type == "BatchNormalization" for other in after)
    large = rows is None or site.elements >= _least(rows.get(node.input[0], 1))
    return large and len(site.shape) == 2 and (node.op_type != "Gemm" or _is_plain(node))


def _least(rows: float) -> int:
    return _SMALL_PRODUCT if rows >= _MANY_ROWS else _LARGE_PRODUCT


def _is_plain(gemm: NodeProto) -> bool:
    """Whether a Gemm is MatMul + Add."""
    given = {a.name: a for a in gemm.attribute}
    factors = all(given[key].f == 1.0 for key in ("alpha", "beta") if key in given)
    return factors and not ("transA" in given and given["transA"].i)


def _rounded(graph: ValueGraph, layers: Mapping[str, str]) -> set[str]:
    """The inputs of integer layers, and the outputs of those whose kernel gives codes."""
    found = set[str]()
    for node in graph.nodes:
        if node.output and node.output[0] in layers:
            found.add(node.input[0])
            if node.op_type == "Conv":
                found.add(graph.result(node))
    return found


def _joined(
    graph: ValueGraph, layers: Mapping[str, str], rounded: set[str], unusable: Collection[str]
) -> dict[str, NodeProto]:
    """Other nodes that run on integers, by first output: all they read is rounded, and so is what they are read for."""
    known, joined = set(rounded), dict[str, NodeProto]()
    for node in graph.nodes:
        usable = not ({*node.input, graph.result(node)} & set(unusable)) if node.output else False
        if usable and node.output[0] not in layers and _joins(node, graph, known, rounded):
            joined[node.output[0]] = node
            known.add(graph.result(node))
    while True:
        made = _made(graph, layers, joined)
        idle = [name for name, node in joined.items() if not _is_of_use(node, graph, made, rounded, joined)]
        if not idle:
            return joined
        for name in idle:
            del joined[name]


def _made(graph: ValueGraph, layers: Mapping[str, str], joined: Mapping[str, NodeProto]) -> dict[str, NodeProto]:
    """The values that integer nodes give as codes, in the order of the graph."""
    nodes = (node for node in graph.nodes if node.output)
    integer = (n for n in nodes if n.output[0] in joined or (n.output[0] in layers and n.op_type == "Conv"))
    return {graph.result(node): node for node in integer}


def _joins(node: NodeProto, graph: ValueGraph, known: Collection[str], rounded: Collection[str]) -> bool:
    """Whether a node can run on integers; a sum that a layer reads is worth rounding one of its operands for."""
    if domain_of(node) or graph.factor(node) is not None:
        return False
    if node.op_type == "Add" and any(graph.scalars.get(name) for name in node.input):
        return any(name in known for name in node.input)
    if node.op_type in ("Add", "Concat") and graph.result(node) in rounded:
        return any(name in known for name in node.input) and not set(node.input) & graph.constants
    if node.op_type in _OF_ALL_INPUTS:
        return all(name in known for name in node.input)
    alone = graph.keeps_grid(node) or node.op_type in _OWN_GRID or graph.averages(node)
    return alone and len(node.output) == 1 and node.input[0] in known


def _is_of_use(
    node: NodeProto,
    graph: ValueGraph,
    made: Collection[str],
    rounded: Collection[str],
    joined: Collection[str],
) -> bool:
    """Whether a node saves conversions: it reads codes and gives codes that are read, or is a sum of codes alone."""
    result = graph.result(node)
    if node.op_type == "Add" and all(name in made for name in node.input):
        return True
    after = (reader.output[0] for reader in graph.readers.get(result, []) if reader.output)
    return any(name in made for name in node.input) and (result in rounded or any(name in joined for name in after))


def _values(graph: ValueGraph, layers: Mapping[str, str], joined: Mapping[str, NodeProto]) -> tuple[RoundedValue, ...]:
    """The rounded values: what integer nodes read, and what those that give codes write."""
    made, grids, read = _made(graph, layers, joined), dict[str, str](), dict[str, set[str]]()
    for name, node in made.items():
        kept = graph.keeps_grid(node) and name == node.output[0]
        grids[name] = grids.get(node.input[0], node.input[0]) if kept else name
    for node in graph.nodes:
        if node.output and node.output[0] in {**layers, **joined}:
            for name in node.input if node.op_type in _OF_ALL_INPUTS else node.input[:1]:
                read.setdefault(name, set()).add(node.output[0])
    computed = [name for node in graph.nodes for name in node.output if name in made or name in read]
    given = sorted(set(read) - set(computed))
    return tuple(
        RoundedValue(
            name=n, grid=grids.get(n, n), readers=None if n in made else frozenset(read[n]), floor=graph.floor(n)
        )
        for n in [*given, *computed]
    )
