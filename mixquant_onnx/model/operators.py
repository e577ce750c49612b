"""Properties of operators, one row per operator.

To add one, add a row to `OPERATORS`. Nothing else has to change for it to be quantized; a torch function that torch
does not provide under the name in the row is added to `quantization/reconstruction/torch_operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import onnx
from onnx import NodeProto

from mixquant_onnx.numerics.granularity import WeightAxes

Attributes = dict[str, Any]
"""Attributes of a node by name, as Python values."""
LayoutRule = Callable[[int, Attributes], WeightAxes]
"""(rank of the weight, attributes of the node) -> its axes. The rank is at least 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationInput:
    """The input that a weight is multiplied with.

    Attributes:
        index: Its position among the node's inputs.
        kind: How it becomes samples: patches of a convolution, vectors of a matrix product, or steps of a sequence.
        axis: For a product, the axis that is summed over: the last, or the one before it.
        flipped_by: For a product, the attribute that swaps the axes; "" for none.
    """

    index: int
    kind: Literal["convolution", "product", "sequence"]
    axis: Literal["last", "first"] = "last"
    flipped_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightInput:
    """An input of an operator that is a weight where it is constant.

    Attributes:
        index: Its position among the node's inputs.
        layout: Axes of the weight.
        narrowest: Fewest elements along the last axis; narrower tables hold coordinates or bounds.
        kernel: Whether it is a convolution's: where its axes cannot be traced, outputs are the first axis of size > 1.
        activation: The input that it is multiplied with; None where calibration does not support it.
        fusable: Whether ONNX Runtime can fuse a DequantizeLinear of it with the operator (MatMulNBits).
    """

    index: int
    layout: LayoutRule
    narrowest: int = 1
    kernel: bool = False
    activation: ActivationInput | None = None
    fusable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """One row of the table.

    Attributes:
        weights: Its inputs that may be weights.
        path: What a constant is behind it: "moves", the same numbers in another order; "scales", still a weight (the
            larger of two operands: weight norm, modulation, LoRA); "", no weight. `constant_steps` has the change of
            shape.
        torch: Name of the function that computes it in torch: of `torch_operators`, else of torch itself; "" where
            there is none. Blocks with such an operator are not reconstructed.
    """

    weights: tuple[WeightInput, ...] = ()
    path: Literal["", "moves", "scales"] = ""
    torch: str = ""


def _rows_first(leading: int) -> LayoutRule:
    return lambda rank, _: WeightAxes(p=min(leading, rank - 1), r=rank - min(leading, rank - 1))


def _columns_last(rank: int, _: Attributes) -> WeightAxes:
    """[..., K, N]: a row is a column of the constant."""
    return WeightAxes(r=1) if rank == 1 else WeightAxes(p=rank - 2, r=1, q=1)


def _reduced_last(rank: int, _: Attributes) -> WeightAxes:
    """[..., M, K]."""
    return WeightAxes(p=rank - 1, r=1)


def _conv_transpose(rank: int, _: Attributes) -> WeightAxes:
    """[I, O / group, kernel...]: the channel axis is 1 (ONNX ConvTranspose-11)."""
    return WeightAxes(r=1, q=1, s=rank - 2)


def _transposed(attribute: str, plain: LayoutRule, transposed: LayoutRule) -> LayoutRule:
    return lambda rank, at: (transposed if at.get(attribute, 0) else plain)(rank, at)


def _gather(rank: int, at: Attributes) -> WeightAxes:
    """Embedding: one row for each index (a row of the table where the axis is 0)."""
    axis = int(at.get("axis", 0)) % rank
    return WeightAxes(p=min(axis + 1, rank - 1), r=rank - min(axis + 1, rank - 1)) if rank > 1 else WeightAxes(r=1)


def _whole(rank: int, _: Attributes) -> WeightAxes:
    return WeightAxes(r=rank)


_LEFT_B = _transposed("transB", _columns_last, _reduced_last)
_LEFT_A = _transposed("transA", _reduced_last, _columns_last)


def _product(left: LayoutRule, right: LayoutRule, fusable: bool = False) -> tuple[WeightInput, ...]:
    """Both operands of a matrix product; MatMul has no attributes, Gemm has transA and transB."""
    first = ActivationInput(index=0, kind="product", axis="last", flipped_by="transA")
    second = ActivationInput(index=1, kind="product", axis="first", flipped_by="transB")
    return (
        WeightInput(index=1, layout=right, activation=first, fusable=fusable),
        WeightInput(index=0, layout=left, activation=second),
    )


_PATCHES = ActivationInput(index=0, kind="convolution")
_CONV = (WeightInput(index=1, layout=_rows_first(1), kernel=True, activation=_PATCHES),)
_RECURRENT = (
    WeightInput(index=1, layout=_rows_first(2), activation=ActivationInput(index=0, kind="sequence")),
    WeightInput(index=2, layout=_rows_first(2)),
)
_COLUMNS = WeightInput(index=1, layout=_columns_last)
_FUSED_GEMM = Operator(weights=(WeightInput(index=1, layout=_LEFT_B), WeightInput(index=0, layout=_LEFT_A)))

OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Conv"): Operator(weights=_CONV, torch="conv"),
    ("", "ConvTranspose"): Operator(weights=(WeightInput(index=1, layout=_conv_transpose, kernel=True),)),
    ("", "DeformConv"): Operator(weights=(WeightInput(index=1, layout=_rows_first(1), kernel=True),)),
    ("", "Gemm"): Operator(weights=_product(_LEFT_A, _LEFT_B, fusable=True), torch="gemm"),
    ("", "MatMul"): Operator(weights=_product(_reduced_last, _columns_last, fusable=True), torch="matmul"),
    ("", "Gather"): Operator(weights=(WeightInput(index=0, layout=_gather),), torch="gather"),
    ("", "GatherND"): Operator(weights=(WeightInput(index=0, layout=_rows_first(1), narrowest=8),)),
    ("", "GatherElements"): Operator(weights=(WeightInput(index=0, layout=_rows_first(1), narrowest=8),)),
    ("", "LSTM"): Operator(weights=_RECURRENT),
    ("", "GRU"): Operator(weights=_RECURRENT),
    ("", "RNN"): Operator(weights=_RECURRENT),
    ("", "Einsum"): Operator(weights=tuple(WeightInput(index=index, layout=_whole) for index in range(4))),
    ("com.microsoft", "FusedMatMul"): Operator(weights=_product(_LEFT_A, _LEFT_B)),
    ("com.microsoft", "TransposeMatMul"): _FUSED_GEMM,
    ("com.microsoft", "FusedGemm"): _FUSED_GEMM,
    ("com.microsoft", "GemmFastGelu"): Operator(weights=(_COLUMNS,)),
    ("com.microsoft", "FusedConv"): Operator(weights=_CONV),
    ("com.microsoft", "Attention"): Operator(weights=(_COLUMNS,)),
    ("com.microsoft", "DecoderAttention"): Operator(
        weights=tuple(WeightInput(index=index, layout=_columns_last) for index in (2, 3))
    ),
    ("com.microsoft", "LongformerAttention"): Operator(weights=(_COLUMNS,)),
    ("com.microsoft", "MoE"): Operator(
        weights=tuple(WeightInput(index=index, layout=_rows_first(2)) for index in (2, 4, 6))
    ),
    ("com.microsoft", "EmbedLayerNormalization"): Operator(
        weights=tuple(WeightInput(index=index, layout=_rows_first(1)) for index in (2, 3, 4))
    ),
    ("", "Identity"): Operator(path="moves", torch="identity"),
    ("", "Transpose"): Operator(path="moves", torch="permute"),
    ("", "Reshape"): Operator(path="moves", torch="reshape"),
    ("", "Cast"): Operator(path="moves", torch="cast"),
    ("", "Squeeze"): Operator(path="moves", torch="squeeze"),
    ("", "Unsqueeze"): Operator(path="moves", torch="unsqueeze"),
    ("", "Flatten"): Operator(path="moves", torch="flatten"),
    ("", "Slice"): Operator(path="moves", torch="slice"),
    ("", "Split"): Operator(path="moves", torch="split"),
    ("", "Concat"): Operator(path="moves", torch="cat"),
    ("", "Mul"): Operator(path="scales", torch="mul"),
    ("", "Div"): Operator(path="scales", torch="div"),
    ("", "Add"): Operator(path="scales", torch="add"),
    ("", "Sub"): Operator(path="scales", torch="sub"),
    ("", "Abs"): Operator(torch="abs"),
    ("", "AveragePool"): Operator(torch="avg_pool"),
    ("", "BatchNormalization"): Operator(torch="batch_norm"),
    ("", "Clip"): Operator(torch="clip"),
    ("", "Constant"): Operator(torch="constant"),
    ("", "Erf"): Operator(torch="erf"),
    ("", "Exp"): Operator(torch="exp"),
    ("", "Expand"): Operator(torch="expand"),
    ("", "Gelu"): Operator(torch="gelu"),
    ("", "GlobalAveragePool"): Operator(torch="global_avg_pool"),
    ("", "HardSigmoid"): Operator(torch="hard_sigmoid"),
    ("", "HardSwish"): Operator(torch="hard_swish"),
    ("", "LayerNormalization"): Operator(torch="layer_norm"),
    ("", "LeakyRelu"): Operator(torch="leaky_relu"),
    ("", "Log"): Operator(torch="log"),
    ("", "Max"): Operator(torch="maximum"),
    ("", "MaxPool"): Operator(torch="max_pool"),
    ("", "Min"): Operator(torch="minimum"),
    ("", "Neg"): Operator(torch="neg"),
    ("", "Pad"): Operator(torch="pad"),
    ("", "Pow"): Operator(torch="pow"),
    ("", "Reciprocal"): Operator(torch="reciprocal"),
    ("", "ReduceMax"): Operator(torch="reduce_max"),
    ("", "ReduceMean"): Operator(torch="reduce_mean"),
    ("", "ReduceSum"): Operator(torch="reduce_sum"),
    ("", "Relu"): Operator(torch="relu"),
    ("", "Shape"): Operator(torch="shape"),
    ("", "Sigmoid"): Operator(torch="sigmoid"),
    ("", "Softmax"): Operator(torch="softmax"),
    ("", "Sqrt"): Operator(torch="sqrt"),
    ("", "Tanh"): Operator(torch="tanh"),
    ("", "Where"): Operator(torch="where"),
}
"""By (domain, type). Slice and Concat move constants: exporters reorder the gates of an LSTM with them."""

_UNKNOWN = Operator()


def domain_of(node: NodeProto) -> str:
    """The domain of a node; "" for ONNX's own."""
    return "" if node.domain == "ai.onnx" else node.domain


def operator_of(node: NodeProto) -> Operator:
    """The row of a node's operator; an empty one where there is none."""
    return OPERATORS.get((domain_of(node), node.op_type), _UNKNOWN)


def weight_input(node: NodeProto, index: int) -> WeightInput | None:
    """The description of an input as a weight.

    Args:
        node: The node.
        index: Position of the input.

    Returns:
        Its entry in the table; None where that input is not a weight.
    """
    return next((row for row in operator_of(node).weights if row.index == index), None)


def moves_only(op: str) -> bool:
    """Whether the ONNX operator `op` returns the numbers of a constant as they are stored."""
    row = OPERATORS.get(("", op))
    return row is not None and row.path == "moves"


def is_fusable(op: str, index: int) -> bool:
    """Whether ONNX Runtime fuses a DequantizeLinear at an input with the operator.

    Args:
        op: Type of an ONNX operator.
        index: Position of the input.

    Returns:
        True where the table says so (`WeightInput.fusable`).
    """
    return any(row.fusable and row.index == index for row in OPERATORS.get(("", op), _UNKNOWN).weights)


def attributes(node: NodeProto) -> Attributes:
    """Attributes of a node as Python values.

    Args:
        node: The node.

    Returns:
        Values by name, without subgraphs and references to a function's attributes.
    """
    return {
        a.name: onnx.helper.get_attribute_value(a)
        for a in node.attribute
        if not a.ref_attr_name and a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    }
