"""Number of rows of the activations in a matrix product, by the shapes that the model declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto

from mixquant_onnx.model.shapes import Shape, shape_of
from mixquant_onnx.model.skeleton import types_of
from mixquant_onnx.model.weights import LocatedWeight


def shapes_of(model: ModelProto) -> dict[str, Shape]:
    """Shapes of all values whose rank is known.

    Args:
        model: The model.

    Returns:
        Shapes by name, from ONNX shape inference.
    """
    shapes = {name: shape_of(value) for name, value in types_of(model).items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def one_row(located: LocatedWeight, shapes: Mapping[str, Shape]) -> bool:
    """Whether every product with a weight has a first input of one row, of fixed shape.

    Args:
        located: A weight that its readers take as the second input.
        shapes: Those of `shapes_of`.

    Returns:
        False where any of the shapes is unknown.
    """
    return all(_rows(shapes.get(reader.node.input[0])) == 1 for reader in located.readers)


def _rows(shape: Shape | None) -> int | None:
    """Product of all sizes but the last, the reduced one (MatMul, and Gemm without transA)."""
    if shape is None or None in shape[:-1]:
        return None
    return math.prod(size for size in shape[:-1] if size is not None)
