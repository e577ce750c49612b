"""Which input of which operator is a weight, and its axes: one row an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto

from mixquant_onnx.numerics.granularity import Layout

Attributes = dict[str, Any]
LayoutRule = Callable[[int, Attributes], Layout]
"""(rank of the weight, attributes of the node) -> its axes. Rank is at least 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightInput:
    """`narrowest`: fewest elements along the last axis; a table of coordinates or bounds is no weight."""

    index: int
    layout: LayoutRule
    narrowest: int = 1


def _rows_first(leading: int) -> LayoutRule:
    return lambda rank, _: Layout(p=min(leading, rank - 1), r=rank - min(leading, rank - 1))


def _columns_last(rank: int, _: Attributes) -> Layout:
    """[..., K, N]: a row is a column of the constant."""
    return Layout(r=1) if rank == 1 else Layout(p=rank - 2, r=1, q=1)


def _reduced_last(rank: int, _: Attributes) -> Layout:
    """[..., M, K]."""
    return Layout(p=rank - 1, r=1)


def _conv_transpose(rank: int, _: Attributes) -> Layout:
    """[I, O / group, kernel...]: the channel axis is 1 (ONNX ConvTranspose-11)."""
    return Layout(r=1, q=1, s=rank - 2)


def _transposed(attribute: str, plain: LayoutRule, transposed: LayoutRule) -> LayoutRule:
    return lambda rank, at: (transposed if at.get(attribute, 0) else plain)(rank, at)


def _gather(rank: int, at: Attributes) -> Layout:
    """Embedding: one row for each index (a row of the table where the axis is 0)."""
    axis = int(at.get("axis", 0)) % rank
    return Layout(p=min(axis + 1, rank - 1), r=rank - min(axis + 1, rank - 1)) if rank > 1 else Layout(r=1)


def _whole(rank: int, _: Attributes) -> Layout:
    return Layout(r=rank)


_LEFT_B = _transposed("transB", _columns_last, _reduced_last)
_LEFT_A = _transposed("transA", _reduced_last, _columns_last)
_RECURRENT = (WeightInput(index=1, layout=_rows_first(2)), WeightInput(index=2, layout=_rows_first(2)))
_PRODUCT = (WeightInput(index=1, layout=_columns_last), WeightInput(index=0, layout=_reduced_last))
_GEMM = (WeightInput(index=1, layout=_LEFT_B), WeightInput(index=0, layout=_LEFT_A))
_CONV = (WeightInput(index=1, layout=_rows_first(1)),)
_TABLE = WeightInput(index=0, layout=_gather)

WEIGHT_INPUTS: dict[tuple[str, str], tuple[WeightInput, ...]] = {
    ("", "Conv"): _CONV,
    ("", "ConvTranspose"): (WeightInput(index=1, layout=_conv_transpose),),
    ("", "DeformConv"): _CONV,
    ("", "Gemm"): _GEMM,
    ("", "MatMul"): _PRODUCT,
    ("", "Gather"): (_TABLE,),
    ("", "GatherND"): (WeightInput(index=0, layout=_rows_first(1), narrowest=8),),
    ("", "GatherElements"): (WeightInput(index=0, layout=_rows_first(1), narrowest=8),),
    ("", "LSTM"): _RECURRENT,
    ("", "GRU"): _RECURRENT,
    ("", "RNN"): _RECURRENT,
    ("", "Einsum"): tuple(WeightInput(index=index, layout=_whole) for index in range(4)),
    ("com.microsoft", "FusedMatMul"): _GEMM,
    ("com.microsoft", "TransposeMatMul"): _GEMM,
    ("com.microsoft", "FusedGemm"): _GEMM,
    ("com.microsoft", "GemmFastGelu"): (WeightInput(index=1, layout=_columns_last),),
    ("com.microsoft", "FusedConv"): _CONV,
    ("com.microsoft", "Attention"): (WeightInput(index=1, layout=_columns_last),),
    ("com.microsoft", "DecoderAttention"): (
        WeightInput(index=2, layout=_columns_last),
        WeightInput(index=3, layout=_columns_last),
    ),
    ("com.microsoft", "LongformerAttention"): (WeightInput(index=1, layout=_columns_last),),
    ("com.microsoft", "MoE"): tuple(WeightInput(index=index, layout=_rows_first(2)) for index in (2, 4, 6)),
    ("com.microsoft", "EmbedLayerNormalization"): tuple(
        WeightInput(index=index, layout=_rows_first(1)) for index in (2, 3, 4)
    ),
}

FOLLOWED = frozenset(
    {
        "Identity",
        "Transpose",
        "Reshape",
        "Cast",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Split",
        "Concat",
    }
)
"""Operators through which a constant is still a weight. Slice and Concat: gates of an LSTM put in order."""

SCALED = frozenset({"Mul", "Div", "Add", "Sub"})
"""Operators that make another weight of the larger of two operands: weight norm, modulation, LoRA."""


def domain_of(node: NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def attributes(node: NodeProto) -> Attributes:
    """Attributes as Python values; a reference to a function's attribute is left out."""
    return {
        a.name: onnx.helper.get_attribute_value(a)
        for a in node.attribute
        if not a.ref_attr_name and a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    }


def weight_input(node: NodeProto, index: int) -> WeightInput | None:
    for row in WEIGHT_INPUTS.get((domain_of(node), node.op_type), ()):
        if row.index == index:
            return row
    return None
