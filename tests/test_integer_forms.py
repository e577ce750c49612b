"""What is rewritten so that more of a net runs on integers: constants around convolutions, hard-swish, SiLU, means."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Array, decibels, optimized, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.export.activations import round_values, without_roundings
from mixquant_onnx.export.fold_convolutions import fold_convolutions
from mixquant_onnx.export.integer_form import restore, to_integer_form
from mixquant_onnx.model.weights import find
from mixquant_onnx.quantization.activations.placement import place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid

CONV = "<pads=[1,1,1,1]>"


def rows(*shape: int) -> Array:
    return 3 * np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(weight(*shape)) + np.float32(0.5)


def one_layer(body: str, **constants: Array) -> ModelProto:
    declared = "".join(f", float[{','.join(map(str, array.shape))}] {name}" for name, array in constants.items())
    return text(
        f"g (float[N,4,6,6] x, float[8,4,3,3] w{declared}) => (float[N,8,p,q] y) {{ {body} }}",
        17, 8, "", w=weight(8, 4, 3, 3), **constants,
    )  # fmt: skip


FOLDED = {
    "BatchNormalization": (
        "c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)",
        {"s": weight(8), "b": weight(8, seed=1), "m": weight(8, seed=2), "v": positive(8)},
    ),
    "with another epsilon": (
        "c = Conv (x, w, b) y = BatchNormalization <epsilon=0.3> (c, s, b2, m, v)",
        {"s": weight(8), "b": weight(8, seed=1), "b2": weight(8, seed=3), "m": weight(8, seed=2), "v": positive(8)},
    ),
    "a factor on either side": ("c = Conv (x, w) d = Mul (k, c) y = Mul (d, k)", {"k": weight(1)}),
    "a factor and an offset": ("c = Conv (x, w) d = Mul (k, c) y = Add (o, d)", {"k": weight(1), "o": weight(1)}),
    "of each channel": (
        "c = Conv (x, w) d = Div (c, k) y = Sub (d, o)", {"k": positive(8, 1, 1), "o": weight(1, 8, 1, 1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_affine_is_folded_into_a_convolution(name: str) -> None:
    model = one_layer(FOLDED[name][0], **FOLDED[name][1])
    folded = ModelProto.FromString(model.SerializeToString())
    fold_convolutions(folded)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    feed = {"x": rows(3, 4, 6, 6)}
    assert decibels(run(model, feed)[0], run(folded, feed)[0]) > 110


KEPT = {
    "of each column": ("c = Conv (x, w) y = Mul (c, k)", {"k": weight(1, 1, 1, 4)}),
    "of a new axis": ("c = Conv (x, w) y = Mul (c, k)", {"k": weight(1, 1, 1, 1, 1)}),
    "its inverse": ("c = Conv (x, w) y = Div (k, c)", {"k": positive(1)}),
    "difference from it": ("c = Conv (x, w) y = Sub (k, c)", {"k": weight(1)}),
    "read elsewhere": ("c = Conv (x, w) d = Mul (c, k) y = Add (d, c)", {"k": weight(1)}),
    "a shared weight": ("c = Conv (x, w) d = Mul (c, k) e = Conv (x, w) y = Sub (d, e)", {"k": weight(1)}),
    "no constant": ("c = Conv (x, w) s = ReduceMean (x) y = Mul (c, s)", {}),
}


@pytest.mark.parametrize("name", KEPT)
def test_nothing_else_is_folded(name: str) -> None:
    model = one_layer(KEPT[name][0], **KEPT[name][1])
    folded = ModelProto.FromString(model.SerializeToString())
    fold_convolutions(folded)
    assert folded == model


@pytest.mark.parametrize(
    ("attributes", "behind", "folded"),
    [
        ("", "b", True), ("<auto_pad=\"VALID\">", "b", True), ("<pads=[0,0,0,1]>", "b", False),
        ("<auto_pad=\"SAME_UPPER\">", "b", False), ("", "Relu (a)", False),
    ],
)  # fmt: skip
def test_a_constant_goes_into_the_bias_of_all_that_read_it_or_none(attributes: str, behind: str, folded: bool) -> None:
    behind = "Identity (b)" if behind == "b" else behind
    model = one_layer(f"r = Relu (x) a = Add (k, r) b = Conv {attributes} (a, w) z = {behind} y = Identity (b)",
                      k=weight(1, seed=3))  # fmt: skip
    made = ModelProto.FromString(model.SerializeToString())
    fold_convolutions(made)
    assert ("Add" not in {node.op_type for node in made.graph.node}) == folded
    feed = {"x": rows(3, 4, 6, 6)}
    assert decibels(run(model, feed)[0], run(made, feed)[0]) > 110


HARD = {
    "HardSwish": "h = HardSwish (a)",
    "HardSigmoid": "s = HardSigmoid <alpha=0.16666667, beta=0.5> (a) h = Mul (a, s)",
    "divided at the end": "s = Add (a, three) c = Clip (s, zero, six) m = Mul (a, c) h = Div (m, six)",
    "divided first": "s = Add (three, a) c = Clip (s, zero, six) d = Div (c, six) h = Mul (d, a)",
    "scaled twice": "s = Add (a, three) c = Clip (s, zero, six) m = Mul (a, c) d = Div (m, six) h = Mul (three, d)",
}
SOFT = {
    "SiLU": "s = Sigmoid (a) h = Mul (a, s)",
    "LeakyRelu": "h = LeakyRelu <alpha=0.1> (a)",
    "squeeze and excite": """r = Relu (a) g = ReduceMean <keepdims=1> (r, axes) e = Conv (g, u) s = Sigmoid (e)
        h = Mul (r, s)""",
    "a mean over windows": "h = AveragePool <kernel_shape=[3,3]> (a)",
    "a mean that counts its border": "h = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (a)",
    "parts": "l, r = Split <axis=1, num_outputs=2> (a) h = Concat <axis=1> (r, l)",
    "parts of given sizes": "l, r = Split <axis=1> (a, sizes) h = Concat <axis=1> (r, l)",
    "a part": "h = Slice (a, start, end, both)",
    "a larger picture": 'r = Resize <mode="nearest"> (a, , scales) h = MaxPool <kernel_shape=[3,3], strides=[2,2]> (r)',
    "a constant in between": "r = Relu (a) t = Mul (three, r) h = Add (t, six)",
}


def between_convolutions(body: str) -> ModelProto:
    return text(
        f"""g (float[N,4,12,12] x, float[8,4,3,3] w, float[8,8,3,3] v, float[8,8,1,1] u) => (y)
        <float three = {{3}}, float zero = {{0}}, float six = {{6}}, int64[2] axes = {{-1,2}}, int64[2] sizes = {{3,5}},
        int64[2] start = {{1,0}}, int64[2] end = {{9,10}}, int64[2] both = {{2,3}}, float[4] scales = {{1,1,2,2}}>
        {{ a = Conv (x, w) {body} y = Conv (h, v) }}""",
        opset=18,
        w=weight(8, 4, 3, 3), v=weight(8, 8, 3, 3, seed=1), u=weight(8, 8, 1, 1, seed=2),
    )  # fmt: skip


def integer(model: ModelProto, **options: Any) -> mq.RunResult:
    chosen: dict[Any, Any] = {"bits": [7], "min_size": 16, "method": "mse", "guard": False, "allow_unchanged": True}
    return mq.quantize(model, activations=8, data={"x": rows(64, 4, 12, 12)}, **{**chosen, **options})


MOVES = {"Slice", "Split", "Resize", "MaxPool", "NhwcMaxPool"}
INTEGER = {
    "QLinearConcat",
    "QLinearConv",
    "QLinearAdd",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearGlobalAveragePool",
}


@pytest.mark.usefixtures("stored_at_a_loss")
@pytest.mark.parametrize("name", [*HARD, *SOFT])
def test_activation_functions_run_on_integers(name: str, tmp_path: Path) -> None:
    model = between_convolutions({**HARD, **SOFT}[name])
    made = integer(model)
    found = Counter(optimized(made.model, tmp_path))
    allowed = INTEGER | {"QuantizeLinear", "DequantizeLinear", "Transpose"}
    assert set(found) - MOVES <= allowed and found["QuantizeLinear"] == found["DequantizeLinear"] == 1, found
    feed = {"x": rows(5, 4, 12, 12)}
    assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > 30

    assert unread(made.model) <= unread(model)


def unread(model: ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer} - {name for node in model.graph.node for name in node.input}


@pytest.mark.parametrize("name", [name for name in HARD if name.startswith("Hard")])
def test_hard_swish_is_as_before_where_no_layer_reads_it(name: str) -> None:
    model = between_convolutions(HARD[name])
    substitutes = to_integer_form(model)
    assert not any(node.op_type.startswith("Hard") for node in model.graph.node)
    restore(model, substitutes)
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in between_convolutions(HARD[name]).graph.node]


def test_a_mean_with_a_border_that_does_not_count_stays_in_float(tmp_path: Path) -> None:
    model = between_convolutions("h = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (a)")
    made = integer(model)
    found = optimized(made.model, tmp_path)
    assert "AveragePool" in found and "QLinearAveragePool" not in found and found.count("QLinearConv") == 2
    feed = {"x": rows(5, 4, 12, 12)}
    assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > 30


@pytest.mark.parametrize(
    "body",
    [
        "y = AveragePool <kernel_shape=[2,2], strides=[2,1], pads=[1,0,0,1], count_include_pad=1> (x)",
        "y = AveragePool <kernel_shape=[3,2], dilations=[1,2]> (x)", "y = HardSwish (x)", "y = HardSigmoid (x)",
        "a, b, c = Split <axis=-1, num_outputs=3> (x) y = Concat <axis=2> (c, a, b)",
        "a, b = Split <axis=1> (x, sizes) y = Concat <axis=1> (b, a)", "y = ReduceMean <keepdims=1> (x, axes)",
    ],
)  # fmt: skip
def test_what_is_rewritten_computes_the_same_and_comes_back(body: str) -> None:
    constants = "<int64[2] sizes = {1,3}, int64[2] axes = {2,3}>"
    model = text(f"g (float[N,4,6,6] x) => (y) {constants} {{ {body} }}", opset=19)
    made = ModelProto.FromString(model.SerializeToString())
    substitutes = to_integer_form(made)
    assert substitutes and {n.op_type for n in made.graph.node} != {n.op_type for n in model.graph.node}
    feed = {"x": rows(2, 4, 6, 6)}
    assert decibels(run(model, feed)[0], run(made, feed)[0]) > 100
    restore(made, substitutes)
    assert list(made.graph.node) == list(model.graph.node)


def test_hard_swish_of_other_types_stays() -> None:
    model = text("g (float16[N,4] x) => (float16[N,4] y) { y = HardSwish (x) }")
    assert to_integer_form(model) == () and model.graph.node[0].op_type == "HardSwish"


def test_means_over_other_axes_stay() -> None:
    for attributes, axes in (("<keepdims=0>", "{2,3}"), ("", "{1,2}")):
        model = text(
            f"g (float[N,4,6,6] x) => (y) <int64[2] axes = {axes}> {{ y = ReduceMean {attributes} (x, axes) }}"
        )
        assert to_integer_form(model) == ()


def test_what_hard_swish_makes_zero_needs_no_codes() -> None:
    model = between_convolutions(HARD["divided at the end"])
    floors = {value.name: value.floor for value in place(model, find(model, 1).sites).values}
    assert floors["a"] == -3 and set(floors.values()) == {-3, None}
    silu = between_convolutions(SOFT["SiLU"])
    assert {v.name: v.floor for v in place(silu, find(silu, 1).sites).values}["a"] == -8
    read_elsewhere = between_convolutions("s = Sigmoid (a) m = Mul (a, s) h = Add (m, a)")
    assert {v.floor for v in place(read_elsewhere, find(read_elsewhere, 1).sites).values} == {None}


def test_without_roundings_a_factor_is_still_there() -> None:
    model = between_convolutions(HARD["divided at the end"])
    values = place(model, find(model, 1).sites).values
    rounded = ModelProto.FromString(model.SerializeToString())
    round_values(rounded, values, {value.grid: ActivationGrid(scale=0.05, zero_point=128) for value in values})
    assert "Div" not in {node.op_type for node in rounded.graph.node}
    feed = {"x": rows(2, 4, 12, 12)}
    assert decibels(run(model, feed)[0], run(without_roundings(rounded), feed)[0]) > 100
