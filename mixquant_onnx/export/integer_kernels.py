"""Products of two dequantized values that ONNX Runtime would fuse to an integer kernel that fails.

It replaces MatMul of two 8-bit DequantizeLinear by MatMulIntegerToFloat, which supports one scale for the left operand
and one for each column of the right one. Other granularities are fused too, and the model fails at run time (observed
in 1.32.0).
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto

from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.weights import LocatedWeight, Reader
from mixquant_onnx.numerics.scheme import Scheme

_MOVES = frozenset(
    {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "MaxPool"}
)
"""Operators through which ONNX Runtime moves a DequantizeLinear towards the product."""


def dequantized_values(model: ModelProto, weights: Collection[str]) -> frozenset[str]:
    """Values that come from a DequantizeLinear, directly or through operators that move it.

    Args:
        model: The model.
        weights: Names of weights that will come from one.

    Returns:
        Names of values.
    """
    found = set(weights)
    for scope in walk(model):
        for node in scope.body.node:
            moved = node.op_type in _MOVES and node.input and node.input[0] in found
            if domain_of(node) == "" and (node.op_type == "DequantizeLinear" or moved):
                found.update(node.output)
    return frozenset(found)


def meets_dequantized(reader: Reader, dequantized: Collection[str]) -> bool:
    """Whether the other operand of a product is dequantized.

    Args:
        reader: A reader of a weight.
        dequantized: Names of dequantized values.

    Returns:
        False where the reader is not a product.
    """
    product = reader.node.op_type in ("MatMul", "Gemm") and reader.index < 2
    return product and reader.node.input[1 - reader.index] in dequantized


def cannot_be_fused(located: LocatedWeight, scheme: Scheme, dequantized: Collection[str]) -> bool:
    """Whether a DequantizeLinear of a weight would be fused into a product that does not run.

    Args:
        located: The weight.
        scheme: Its scheme.
        dequantized: Names of dequantized values.

    Returns:
        True where any of its products fails.
    """
    return any(
        scheme.grid.per == "block" or (reader.index == 0 and scheme.grid.per != "tensor")
        for reader in located.readers
        if meets_dequantized(reader, dequantized)
    )
