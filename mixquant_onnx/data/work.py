"""Cost of running a model on a batch, estimated without timing.

Timing would make results depend on the load of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto, NodeProto

from mixquant_onnx.model.scopes import Scope, walk
from mixquant_onnx.model.shapes import Shapes
from mixquant_onnx.model.skeleton import without_data


def multiplications(model: ModelProto, feed: Mapping[str, tuple[int, ...]]) -> int:
    """Approximate number of multiplications of a run.

    Args:
        model: The model.
        feed: Shapes of the inputs by name.

    Returns:
        Multiplications of convolutions and matrix products whose shapes can be inferred; each part of If and Loop
        counts once.
    """
    skeleton, shapes = _with_shapes(model, feed)
    return sum(_of(node, scope, shapes) for scope in walk(skeleton) for node in scope.body.node)


def product_rows(model: ModelProto, feed: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Rows of the first operand of each product of the main graph.

    Args:
        model: The model.
        feed: Shapes of the inputs by name.

    Returns:
        By the name of the operand: all of its dimensions but the last, multiplied; without those that are not known.
    """
    skeleton, shapes = _with_shapes(model, feed)
    main = walk(skeleton)[0]
    found = {node.input[0]: _shape(node.input[0], main, shapes) for node in main.body.node if node.op_type in _PRODUCTS}
    return {name: math.prod(shape[:-1]) for name, shape in found.items() if shape}


_PRODUCTS = ("MatMul", "Gemm")


def _with_shapes(model: ModelProto, feed: Mapping[str, tuple[int, ...]]) -> tuple[ModelProto, Shapes]:
    """A copy without weights whose inputs have given shapes, and the shapes of its values."""
    skeleton = without_data(model)
    for value in skeleton.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, feed.get(value.name, ()), strict=False):
            dim.dim_value = size
    del skeleton.graph.value_info[:]
    for value in skeleton.graph.output:  # declared with free sizes, which inference would keep
        value.type.tensor_type.ClearField("shape")
    return skeleton, Shapes(skeleton)


def _of(node: NodeProto, scope: Scope, shapes: Shapes) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm") or len(node.input) < 2:
        return 0
    first, second, made = (_shape(name, scope, shapes) for name in (*node.input[:2], node.output[0]))
    if not first or not second or not made:
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(second[1:])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(made) * first[0 if turned else -1]


def _shape(name: str, scope: Scope, shapes: Shapes) -> tuple[int, ...]:
    """The inferred shape; empty where it is not known."""
    home = scope.resolve(name)
    found = None if home is None else shapes.of(home, name)
    return tuple(d for d in found if d is not None) if found is not None and None not in found else ()
