"""Products on integers, written so that ONNX Runtime finds their kernels (docs/research/activations.md)."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, helper

from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.product_rows import shapes_of
from mixquant_onnx.model.weights import Reader


def keep_integer_products(model: ModelProto, readers: Sequence[Reader], fresh: FreshName) -> None:
    """Change what is behind products, where ONNX Runtime would run them in float.

    It makes a Gemm of a product of two matrices and an Add: a Sum stands for the Add then. It takes a Relu into the
    product before it looks for a kernel, and finds none where the Relu is read by anything but QuantizeLinear: a Sum of
    the product alone is put between them then.

    Args:
        model: The model; it is changed.
        readers: The nodes of layers on integers; Gemms have become MatMuls already.
        fresh: Gives an unused name.
    """
    products = {reader.node.output[0] for reader in readers if reader.node.op_type == "MatMul"}
    if not products:
        return
    shapes = shapes_of(model)
    behind = _readers(model, products)
    for name, nodes in behind.items():
        only = nodes[0] if len(nodes) == 1 and not domain_of(nodes[0]) else None
        if only is None:
            continue
        if only.op_type == "Add" and len(shapes.get(name, ())) == 2:
            only.op_type = "Sum"
        elif only.op_type == "Relu" and _is_read_as_float(model, only.output[0]):
            _put_sum_between(model, name, fresh)


def _readers(model: ModelProto, names: set[str]) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in names & set(node.input):
            found.setdefault(name, []).append(node)
    return found


def _is_read_as_float(model: ModelProto, name: str) -> bool:
    """Whether any node but QuantizeLinear reads a value."""
    return any(node.op_type != "QuantizeLinear" for node in model.graph.node if name in node.input)


def _put_sum_between(model: ModelProto, name: str, fresh: FreshName) -> None:
    place, maker = next((i, node) for i, node in enumerate(model.graph.node) if name in node.output)
    product = fresh(f"{name}.product")
    maker.output[list(maker.output).index(name)] = product
    model.graph.node.insert(place + 1, helper.make_node("Sum", [product], [name]))
