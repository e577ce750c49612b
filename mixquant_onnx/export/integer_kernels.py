"""Where ONNX Runtime would fuse a product of two dequantized values to an integer kernel that fails.

It replaces MatMul of two DequantizeLinear of 8 bits by MatMulIntegerToFloat, which takes one scale for the
left operand and one for each column of the right one. Other granularities are fused all the same, and the model fails
when it is run (seen in 1.32.0).
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto

from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.weights import LocatedSite, Reader
from mixquant_onnx.numerics.scheme import Scheme

_MOVES = frozenset(
    {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "MaxPool"}
)
"""Operators through which ONNX Runtime moves a DequantizeLinear towards the product."""


def dequantized_values(model: ModelProto, weights: Collection[str]) -> frozenset[str]:
    """Names of values that are, or move, what DequantizeLinear gives; `weights` will be such."""
    found = set(weights)
    for scope in walk(model):
        for node in scope.body.node:
            moved = node.op_type in _MOVES and node.input and node.input[0] in found
            if domain_of(node) == "" and (node.op_type == "DequantizeLinear" or moved):
                found.update(node.output)
    return frozenset(found)


def meets_dequantized(reader: Reader, dequantized: Collection[str]) -> bool:
    """Whether the other operand of the product that `reader` is was dequantized."""
    product = reader.node.op_type in ("MatMul", "Gemm") and reader.index < 2
    return product and reader.node.input[1 - reader.index] in dequantized


def cannot_be_fused(located: LocatedSite, scheme: Scheme, dequantized: Collection[str]) -> bool:
    """Whether a DequantizeLinear of this weight would be fused into a product that does not run."""
    return any(
        scheme.grid.per == "block" or (reader.index == 0 and scheme.grid.per != "tensor")
        for reader in located.readers
        if meets_dequantized(reader, dequantized)
    )
