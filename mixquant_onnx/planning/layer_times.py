"""Nanoseconds that a layer saves on integers, from a table of measured rates (docs/activations.md)."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.quantization.activations.placement import Placement

_CONV = 0.009
_PRODUCT = 0.011
"""Saved by each multiplication with one thread and VNNI; a convolution of single channels saves nothing."""

_WEIGHT = 0.1
"""Saved for each weight that a product reads from memory."""

_CONVERSION = 0.3
"""Spent for each value that is converted between float and integers; saved where a layer goes back to float too, as the
values on both sides of it then are."""


def saved_nanoseconds(
    model: ModelProto, sites: Mapping[str, LocatedWeight], placement: Placement, elements: Mapping[str, float]
) -> dict[str, float]:
    """Estimate what each integer layer saves for one sample.

    Args:
        model: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        elements: Elements of its rounded values for one sample, where they are known.

    Returns:
        Nanoseconds by the name of the weight.
    """
    found: dict[str, float] = {}
    for node in model.graph.node:
        name = placement.layers.get(node.output[0]) if node.output else None
        if name is None:
            continue
        site = sites[name].site
        p, _, q, _ = site.layout.sizes(site.shape)
        read = elements.get(node.input[0], site.elements / (p * q))
        if node.op_type == "Conv":
            results = (node.output[0], *_behind(model, node.output[0]))
            written = next((elements[value] for value in results if value in elements), read)
            rate = _CONV * site.elements / (p * q) if site.shape[1] > 1 else 0.0
            saved = rate * written + _CONVERSION * (read + written)
        else:
            saved = _PRODUCT * read * p * q + _WEIGHT * site.elements + _CONVERSION * read
        found[name] = found.get(name, 0.0) + saved
    return found


def _behind(model: ModelProto, name: str) -> list[str]:
    return [output for node in model.graph.node if name in node.input for output in node.output]


def elements_of_products(
    model: ModelProto, sites: Mapping[str, LocatedWeight], placement: Placement, rows: Mapping[str, float]
) -> dict[str, float]:
    """Elements that products read.

    Args:
        model: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        rows: Rows of the first operand for one sample, by its name; one where that is not known.

    Returns:
        For one sample, by the name of the operand.
    """
    found: dict[str, float] = {}
    for node in model.graph.node:
        name = placement.layers.get(node.output[0]) if node.output else None
        if name is not None:
            p, _, q, _ = sites[name].site.layout.sizes(sites[name].site.shape)
            found[node.input[0]] = rows.get(node.input[0], 1.0) * sites[name].site.elements / (p * q)
    return found
