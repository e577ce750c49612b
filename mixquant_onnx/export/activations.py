"""Put QuantizeLinear and DequantizeLinear around values of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from mixquant_onnx.errors import ModelError
from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.export.encodings.int8_kernel import PER_CHANNEL_FROM_OPSET
from mixquant_onnx.export.opset import CannotConvert, opset_of, raise_opset
from mixquant_onnx.model.dependencies import set_nodes
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.quantization.activations.placement import RoundedValue
from mixquant_onnx.quantization.activations.ranges import TOP, ActivationGrid
from mixquant_onnx.quantization.activations.value_graph import ValueGraph

ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
"""Operators that round a value to 8 bits."""

_ROUNDING_ERROR = 1e-5
"""Of a scale in float32, relative to it, with some room."""


def at_integer_opset(model: ModelProto) -> ModelProto:
    """A copy of a model at an opset whose integer operators have all that is needed.

    Args:
        model: The model.

    Returns:
        The copy.

    Raises:
        ModelError: The model cannot be converted.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        raise_opset(copy, PER_CHANNEL_FROM_OPSET, fresh_names(copy))
    except CannotConvert as reason:
        raise ModelError(
            f"--activations needs opset {PER_CHANNEL_FROM_OPSET}, and opset {opset_of(model)} of this model cannot "
            f"be converted: {reason}"
        ) from reason
    return copy


def round_values(model: ModelProto, values: Collection[RoundedValue], grids: Mapping[str, ActivationGrid]) -> None:
    """Round values of the main graph to 8 bits.

    Args:
        model: The model, of opset 10 or later; it is changed.
        values: The values, in the order of the graph.
        grids: A grid for each `RoundedValue.grid`.

    Source:
        ONNX QuantizeLinear-10 and DequantizeLinear-10.
    """
    graph, fresh, seen = model.graph, fresh_names(model), ValueGraph(model)
    parameters: dict[str, list[str]] = {}
    producers = {name: node for node in graph.node for name in node.output}
    pairs: dict[str, list[NodeProto]] = {}
    for value in values:
        if value.grid not in parameters:
            parameters[value.grid] = _stored(graph, value.grid, grids[value.grid], fresh)
        source, rounded, given = value.name, fresh(f"{value.name}.dq"), parameters[value.grid]
        if value.readers is None:
            producer = producers[value.name]
            if seen.factor(producer) is not None:
                source, scale = _before_factors(graph, seen, producer, grids[value.grid].scale)
                rounded, given = value.name, [_store_scale(graph, source, scale, fresh), given[1]]
            else:
                source, rounded = fresh(f"{value.name}.float"), value.name
                producer.output[list(producer.output).index(value.name)] = source
        codes = fresh(f"{value.name}.q")
        pairs[source] = [
            helper.make_node("QuantizeLinear", [source, *given], [codes]),
            helper.make_node("DequantizeLinear", [codes, *parameters[value.grid]], [rounded]),
        ]
        for node in graph.node:
            if value.readers is not None and node.output and node.output[0] in value.readers:
                _read_instead(node, value.name, rounded)
    _insert(graph, pairs)


def round_dynamically(model: ModelProto, values: Collection[RoundedValue]) -> None:
    """Round values of the main graph to 8 bits over the range that each has in a run.

    Args:
        model: The model, of opset 11 or later; it is changed.
        values: The values, in the order of the graph; with `readers`.

    Source:
        ONNX DynamicQuantizeLinear-11.
    """
    graph, fresh = model.graph, fresh_names(model)
    pairs: dict[str, list[NodeProto]] = {}
    for value in values:
        made = [fresh(f"{value.name}.{part}") for part in ("q", "scale", "zero")]
        rounded = fresh(f"{value.name}.dq")
        pairs[value.name] = [
            helper.make_node("DynamicQuantizeLinear", [value.name], made),
            helper.make_node("DequantizeLinear", made, [rounded]),
        ]
        for node in graph.node:
            if node.output and node.output[0] in (value.readers or ()):
                _read_instead(node, value.name, rounded)
    _insert(graph, pairs)


def _stored(graph: GraphProto, name: str, grid: ActivationGrid, fresh: FreshName) -> list[str]:
    scale, zero = _store_scale(graph, name, grid.scale, fresh), fresh(f"{name}.zero")
    graph.initializer.append(numpy_helper.from_array(np.array(grid.zero_point, np.uint8), zero))
    return [scale, zero]


def _before_factors(graph: GraphProto, seen: ValueGraph, last: NodeProto, scale: float) -> tuple[str, float]:
    """Take products with constants out; the value in front of them, and its scale for the codes behind them."""
    name, node = last.output[0], last
    while (factor := seen.factor(node)) is not None and (node is last or len(seen.readers[node.output[0]]) == 1):
        name, scale = seen.operand(node), scale / factor
        graph.node.remove(node)
        node = seen.maker[name]
    return name, _within(scale, seen, node)


def _within(scale: float, seen: ValueGraph, node: NodeProto) -> float:
    """A scale whose largest code is not above the bound of a Clip: onnxruntime 1.25 writes graphs that do not load."""
    bound = seen.scalars.get(node.input[2], 0.0) if node.op_type == "Clip" and len(node.input) > 2 else 0.0
    if not 0 < bound < TOP * scale < (1 + _ROUNDING_ERROR) * bound:
        return scale
    below = np.float32(bound / TOP)
    return float(below if np.float32(TOP) * below <= bound else np.nextafter(below, np.float32(0)))


def _store_scale(graph: GraphProto, value: str, scale: float, fresh: FreshName) -> str:
    name = fresh(f"{value}.scale")
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), name))
    return name


def _read_instead(node: NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new


def _insert(graph: GraphProto, pairs: Mapping[str, list[NodeProto]]) -> None:
    """Each pair behind the node that gives its value, those of inputs and constants first."""
    computed = {name for node in graph.node for name in node.output}
    ordered = [node for name, pair in pairs.items() if name not in computed for node in pair]
    for node in graph.node:
        ordered.append(node)
        for name in node.output:
            ordered += pairs.get(name, [])
    set_nodes(graph, ordered)


def without_roundings(model: ModelProto) -> ModelProto:
    """A copy whose values have the same names, and are not rounded.

    Args:
        model: A model that `round_values` or `round_dynamically` changed.

    Returns:
        The copy, with Identity in place of QuantizeLinear and of the DequantizeLinear behind it; a product with a
        constant where the latter has another scale.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, fresh = copy.graph, fresh_names(copy)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    scales = {node.output[0]: node.input[1] if len(node.input) > 1 else "" for node in graph.node
              if node.op_type in ROUNDING}  # fmt: skip
    for node in graph.node:
        if node.op_type in ROUNDING:
            node.op_type = "Identity"
            del node.input[1:]
            del node.output[1:]
        elif node.op_type == "DequantizeLinear" and node.input[0] in scales:
            before, after = stored.get(scales[node.input[0]]), stored.get(node.input[1])
            del node.input[1:]
            node.op_type = "Identity"
            if before is not None and after is not None and before.name != after.name:
                name = fresh(f"{node.output[0]}.factor")
                ratio = values_of(after) / values_of(before)
                graph.initializer.append(numpy_helper.from_array(np.asarray(ratio, np.float32), name))
                node.op_type = "Mul"
                node.input.append(name)
    return copy


def rounds_activations(model: ModelProto) -> bool:
    """Whether a model has activations on integers already: a QuantizeLinear, or an integer operator.

    Args:
        model: The model.

    Returns:
        True where it does.
    """
    integer = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulInteger", "ConvInteger")
    return any(node.op_type == "QuantizeLinear" or node.op_type.startswith(integer) for node in model.graph.node)
