"""Scale channels of activations in a float model, and rows of weights in return: its outputs stay the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.model.dependencies import read_inside
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.substitute import editable_copy, put
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.quantization.activations.equalization import Equalization


def equalized(
    model: ModelProto, sites: Mapping[str, LocatedWeight], equalizations: Sequence[Equalization]
) -> ModelProto:
    """A copy with scaled channels.

    A LayerNormalization that nothing else reads takes the factors into its scale and bias; elsewhere a Mul is put
    behind the value.

    Args:
        model: The float model.
        sites: Its weights by name.
        equalizations: The factors.

    Returns:
        The copy, which computes the same to float rounding.
    """
    copy, weights = editable_copy(model, sites)
    fresh = fresh_names(copy)
    for one in equalizations:
        for name, axis in one.where.weights.items():
            along = one.factors[:, None] if axis == 0 else one.factors[None]
            put(weights[name], (weight_values(weights[name]) * along).astype(np.float32))
        readers = [reader.node for name in one.where.weights for reader in weights[name].readers]
        _scale(copy.graph, one.where.value, np.float32(1) / one.factors, readers, fresh)
    return copy


def _scale(
    graph: GraphProto, value: str, factors: NDArray[np.float32], readers: Sequence[NodeProto], fresh: FreshName
) -> None:
    maker = next((node for node in graph.node if value in node.output), None)
    alone = _only_readers(graph, value, {node.output[0] for node in readers})
    if alone and maker is not None and _into_normalization(graph, maker, value, factors):
        return
    stored, scaled = fresh(f"{value}.balance"), fresh(f"{value}.balanced")
    graph.initializer.append(numpy_helper.from_array(factors, stored))
    if alone and maker is not None and maker.op_type == "Relu" and not domain_of(maker):
        # In front of it: ONNX Runtime finds no integer kernel for a product whose Relu is not rounded at once.
        source, maker.input[0] = maker.input[0], scaled
        place = list(graph.node).index(maker)
    else:
        source, place = value, next((i + 1 for i, node in enumerate(graph.node) if value in node.output), 0)
        for node in readers:
            node.input[0] = scaled
    graph.node.insert(place, helper.make_node("Mul", [source, stored], [scaled]))


def _only_readers(graph: GraphProto, value: str, readers: set[str]) -> bool:
    others = {o for node in graph.node if value in node.input for o in node.output} - readers
    others |= {o for node in graph.node if value in node.input[1:] for o in node.output}
    inner = any(value in read_inside(node) for node in graph.node)
    return not others and not inner and all(output.name != value for output in graph.output)


def _into_normalization(graph: GraphProto, maker: NodeProto, value: str, factors: NDArray[np.float32]) -> bool:
    """Scale the constants of the LayerNormalization that gives a value, if they are used for no more."""
    if maker.op_type != "LayerNormalization" or domain_of(maker) or value != maker.output[0]:
        return False
    constants = [_constant(graph, name) for name in maker.input[1:] if name]
    if any(tensor is None or tuple(tensor.dims) != factors.shape for tensor in constants):
        return False
    for tensor in constants:
        assert tensor is not None
        tensor.CopyFrom(numpy_helper.from_array(values_of(tensor) * factors, tensor.name))
    return True


def _constant(graph: GraphProto, name: str) -> TensorProto | None:
    """The initializer of a name, where a single node reads it and nobody can replace it."""
    inner = any(name in read_inside(node) for node in graph.node)
    known = {value.name for value in [*graph.input, *graph.output]}
    if inner or name in known or sum(list(node.input).count(name) for node in graph.node) != 1:
        return None
    return next((tensor for tensor in graph.initializer if tensor.name == name), None)
