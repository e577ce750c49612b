"""Layers that stay in float because they are quicker there, by the table of `layer_times`."""

from __future__ import annotations

from onnx import ModelProto

from mixquant_onnx.planning.rounding import Rounding
from mixquant_onnx.quantization.activations.placement import Placement
from mixquant_onnx.quantization.activations.value_graph import ValueGraph


def slow_layers(rounding: Rounding, in_float: set[str]) -> set[str]:
    """Find layers that are quicker in float, together with all that they hand codes to and take codes from.

    A single layer among others on integers is not considered: in float, conversions around it and operators behind it
    take longer too.

    Args:
        rounding: The model.
        in_float: Names of weights whose layers stay in float anyway.

    Returns:
        Names of other weights.
    """
    slow, most = set[str](), rounding.total_saved(in_float)
    for layers in _connected(rounding.model, rounding.without(in_float)):
        saved = rounding.total_saved(in_float | slow | layers)
        if saved >= most:
            slow, most = slow | layers, saved
    return slow


def _connected(model: ModelProto, placement: Placement) -> list[set[str]]:
    """Weights of layers that are joined by codes, in the order of the graph."""
    graph, made = ValueGraph(model), {value.name for value in placement.values if value.readers is None}
    groups: dict[str, set[str]] = {}
    for node in model.graph.node:
        name = placement.layers.get(node.output[0]) if node.output else None
        result = graph.result(node) if node.output else ""
        if name is None and result not in made:
            continue
        joined = {name} if name is not None else set[str]()
        values = {value for value in (*node.input, result) if value in made}
        for group in {id(groups[value]): groups[value] for value in values if value in groups}.values():
            joined |= group
        for value, group in groups.items():
            if group & joined:
                groups[value] = joined
        groups.update(dict.fromkeys(values or {node.output[0]}, joined))
    unique = {id(group): group for group in groups.values()}
    return [group for group in unique.values() if group]
