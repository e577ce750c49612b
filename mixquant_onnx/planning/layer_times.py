"""Nanoseconds that layers save on integers, by a table of measured rates (docs/research/activations.md).

The table is that of one processor (AVX-512 VNNI, one thread). It is not measured on the machine of the user, so that
the same command writes the same file everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto

from mixquant_onnx.model.weights import LocatedWeight, WeightTensor
from mixquant_onnx.quantization.activations.placement import Placement
from mixquant_onnx.quantization.activations.value_graph import ValueGraph

_PIXEL = (5.0, 10.0)
_MULTIPLICATION = (0.0128, 0.0045)
"""A convolution with float and with integer codes: for each position of the output, and for each multiplication."""

_DEPTHWISE = (0.035, 0.07)
"""The same for a multiplication of a convolution of single channels."""

_PRODUCT = 0.011
_WEIGHT = 0.1
"""What a product saves for each multiplication, and for each weight that it reads from memory."""

_ELEMENTWISE = 0.2
"""What an operator between layers saves for each value, such as a sum."""

_CONVERSION = 0.3
"""Spent for each value that is rounded from float, or read as float by another operator."""


def saved_nanoseconds(
    graph: ValueGraph, sites: Mapping[str, LocatedWeight], placement: Placement, elements: Mapping[str, float]
) -> dict[str, float]:
    """Estimate what each integer layer saves for one sample, conversions aside; it may be negative.

    Args:
        graph: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        elements: Elements of its rounded values for one sample, where they are known.

    Returns:
        Nanoseconds by the name of the weight.
    """
    found: dict[str, float] = {}
    for node, name in _layers(graph, placement):
        site = sites[name].site
        p, _, q, _ = site.layout.sizes(site.shape)
        read = elements.get(node.input[0], site.elements / (p * q))
        if node.op_type == "Conv":
            written = elements.get(graph.result(node), elements.get(node.output[0], read))
            saved = _saved_by_convolution(site, written / (p * q), written)
        else:
            saved = _PRODUCT * read * p * q + _WEIGHT * site.elements
        found[name] = found.get(name, 0.0) + saved
    return found


def _saved_by_convolution(site: WeightTensor, positions: float, written: float) -> float:
    depth = site.elements / site.shape[0]
    rates = _DEPTHWISE if site.shape[1] == 1 else _MULTIPLICATION
    on_float, on_integers = (
        pixel * positions + rate * depth * written for pixel, rate in zip(_PIXEL, rates, strict=True)
    )
    return on_float - on_integers


def total_saved(
    graph: ValueGraph, sites: Mapping[str, LocatedWeight], placement: Placement, elements: Mapping[str, float]
) -> float:
    """What all integer layers save for one sample, without what conversions take.

    Args:
        graph: As `saved_nanoseconds`.
        sites: As `saved_nanoseconds`.
        placement: As `saved_nanoseconds`.
        elements: As `saved_nanoseconds`.

    Returns:
        Nanoseconds.
    """
    made = {value.name for value in placement.values if value.readers is None}
    read_as_float = set[str]()
    for node in graph.nodes:
        integer = any(name in placement.layers for name in node.output) or (node.output and graph.result(node) in made)
        read_as_float |= set() if integer else made & set(node.input)
    converted = [v.name for v in placement.values if v.readers is not None or v.name in read_as_float]
    spent = _CONVERSION * sum(elements.get(name, 0.0) for name in converted if name not in graph.constants)
    between = made - {graph.result(node) for node, _ in _layers(graph, placement)}
    saved = _ELEMENTWISE * sum(elements.get(name, 0.0) for name in between)
    return saved + sum(saved_nanoseconds(graph, sites, placement, elements).values()) - spent


def elements_of_products(
    graph: ValueGraph, sites: Mapping[str, LocatedWeight], placement: Placement, rows: Mapping[str, float]
) -> dict[str, float]:
    """Elements that products read.

    Args:
        graph: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        rows: Rows of the first operand for one sample, by its name; one where that is not known.

    Returns:
        For one sample, by the name of the operand.
    """
    found: dict[str, float] = {}
    for node, name in _layers(graph, placement):
        p, _, q, _ = sites[name].site.layout.sizes(sites[name].site.shape)
        found[node.input[0]] = rows.get(node.input[0], 1.0) * sites[name].site.elements / (p * q)
    return found


def _layers(graph: ValueGraph, placement: Placement) -> Sequence[tuple[NodeProto, str]]:
    layers = placement.layers
    return [(node, layers[node.output[0]]) for node in graph.nodes if node.output and node.output[0] in layers]
