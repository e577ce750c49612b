"""A model without its large constants, for shape inference."""

from __future__ import annotations

import contextlib

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from mixquant_onnx.model.constants import elements_of
from mixquant_onnx.model.scopes import walk

SMALL = 1024
"""Most elements of a constant that keeps its values (axes, shapes, bounds), which shape inference may need."""


def inferred(model: ModelProto) -> ModelProto:
    """A copy without the large constants, with the types and shapes that ONNX shape inference finds.

    Args:
        model: The model; not changed.

    Returns:
        The copy; where inference fails it has what is declared.
    """
    skeleton = without_data(model)
    with contextlib.suppress(Exception):  # RuntimeError, ValueError and its own
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    return skeleton


def types_of(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Inferred types of all values, from a copy without the large constants.

    Args:
        model: The model; not changed.

    Returns:
        Types by name, in all graphs; those that are declared where inference fails.
    """
    found: dict[str, ValueInfoProto] = {}
    for scope in walk(inferred(model)):
        if isinstance(scope.body, GraphProto):
            for value in (*scope.body.value_info, *scope.body.input, *scope.body.output):
                found[value.name] = value
    return found


def without_data(model: ModelProto) -> ModelProto:
    """A copy in which large constants have only a type and a shape.

    Args:
        model: The model; not changed.

    Returns:
        The copy; large constants are initializers without data, which ONNX shape inference accepts.
    """
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(_graph_without_data(model.graph))
    return copy


def _graph_without_data(graph: GraphProto) -> GraphProto:
    copy = GraphProto(name=graph.name or "graph", input=graph.input, output=graph.output, value_info=graph.value_info)
    for tensor in graph.initializer:
        copy.initializer.append(tensor if elements_of(tensor) <= SMALL else _header(tensor))
    for node in graph.node:
        big = any(a.HasField("t") and elements_of(a.t) > SMALL for a in node.attribute)
        if big and node.op_type == "Constant":
            tensor = node.attribute[0].t
            header = _header(tensor)
            header.name = node.output[0]
            copy.initializer.append(header)
        else:
            copy.node.append(node)
    return copy


def _header(tensor: TensorProto) -> TensorProto:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
