"""The values that are rounded so that layers run on integers."""

from __future__ import annotations

import pytest
from cases import put, text, weight
from onnx import ModelProto, numpy_helper

from mixquant_onnx.model.weights import find
from mixquant_onnx.quantization.activations.placement import Placement, place


def placed(model: ModelProto, *excluded: str) -> Placement:
    return place(model, find(model, 1).sites, excluded)


def names(placement: Placement) -> list[str]:
    return [value.name for value in placement.values]


CONV = "float[1,8,6,6]"
KERNEL = "float[8,8,3,3]"


def net(body: str, *weights: str, result: str = "y") -> ModelProto:
    declared = ", ".join(f"{KERNEL} {name}" for name in weights)
    model = text(f"g ({CONV} x, {declared}) => ({CONV} {result}) {{ {body} }}")
    for seed, name in enumerate(weights):
        put(model, name, weight(8, 8, 3, 3, seed=seed))
    return model


PADDED = "<pads=[1,1,1,1]>"


def test_a_relu_is_within_the_range_of_the_layer_before_it() -> None:
    model = net(f"a = Conv {PADDED} (x, w) r = Relu (a) y = Conv {PADDED} (r, v)", "w", "v")
    made = placed(model)
    assert names(made) == ["x", "r", "y"]
    assert [value.readers for value in made.values] == [frozenset({"a"}), None, None]
    assert made.layers == {"a": "w", "y": "v"}


def test_a_relu_of_a_value_that_is_read_elsewhere_stays_behind_the_rounding() -> None:
    model = net(f"a = Conv {PADDED} (x, w) r = Relu (a) b = Conv {PADDED} (r, v) y = Sub (a, b)", "w", "v")
    assert names(placed(model)) == ["x", "a", "r", "b"]


def test_a_sum_of_two_rounded_values_that_a_layer_reads_is_rounded() -> None:
    model = net(
        f"a = Conv {PADDED} (x, w) b = Conv {PADDED} (a, v) s = Add (a, b) r = Relu (s) y = Conv {PADDED} (r, u)",
        "w", "v", "u",
    )  # fmt: skip
    assert names(placed(model)) == ["x", "a", "b", "r", "y"]


def test_a_float_operand_of_such_a_sum_is_rounded_for_it_alone() -> None:
    model = net(
        f"a = Conv {PADDED} (x, w) f = Sin (x) s = Add (a, f) y = Conv {PADDED} (s, v) z = Exp (f)", "w", "v",
    )  # fmt: skip
    made = {value.name: value.readers for value in placed(model).values}
    assert made == {"x": frozenset({"a"}), "a": None, "f": frozenset({"s"}), "s": None, "y": None}
    constant = net(f"a = Conv {PADDED} (x, w) s = Add (a, c) y = Conv {PADDED} (s, v)", "w", "v")
    constant.graph.initializer.append(numpy_helper.from_array(weight(1, 8, 1, 1), "c"))
    assert names(placed(constant)) == ["x", "a", "s", "y"]
    assert {value.name: value.readers for value in placed(constant).values}["s"] == frozenset({"y"})


def test_a_sum_that_no_layer_reads_is_rounded_only_if_it_is_of_codes() -> None:
    model = net(f"a = Conv {PADDED} (x, w) b = Conv {PADDED} (a, v) y = Add (a, b)", "w", "v")
    assert names(placed(model)) == ["x", "a", "b", "y"]
    model = net(f"a = Conv {PADDED} (x, w) y = Add (a, x)", "w")
    assert names(placed(model)) == ["x", "a"]


def test_pooling_and_reshape_keep_the_grid() -> None:
    model = text(
        """g (float[1,8,6,6] x, float[8,8,3,3] w, float[128,40] v) => (float[1,40] y) { a = Conv <pads=[1,1,1,1]> (x, w)
        m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (a) f = Flatten (m) n = Slice (f, s, e) y = MatMul (f, v) }""",
        w=weight(8, 8, 3, 3), v=weight(128, 40),
    )  # fmt: skip
    made = {value.name: value.grid for value in placed(model).values}
    assert made == {"x": "x", "a": "a", "m": "a", "f": "a"}


def test_a_product_gives_float_values() -> None:
    model = text(
        "g (float[N,64] x, float[64,80] w, float[80,60] v) => (float[N,60] y) { h = MatMul (x, w) y = MatMul (h, v) }",
        w=weight(64, 80), v=weight(80, 60),
    )  # fmt: skip
    made = placed(model)
    assert [(value.name, value.readers) for value in made.values] == [("x", frozenset({"h"})), ("h", frozenset({"y"}))]


@pytest.mark.parametrize(
    ("width", "rows", "integer"),
    [(255, {}, False), (256, {}, True), (256, {"x": 1.0}, True), (32, {"x": 32.0}, True), (32, {"x": 31.0}, False),
     (31, {"x": 1000.0}, False), (1, None, True)],
)  # fmt: skip
def test_products_of_few_weights_and_rows_stay_float(width: int, rows: dict[str, float] | None, integer: bool) -> None:
    model = text(
        f"g (float[N,256] x, float[256,{width}] w) => (float[N,{width}] y) {{ y = MatMul (x, w) }}",
        w=weight(256, width),
    )  # fmt: skip
    assert place(model, find(model, 1).sites, rows=rows).layers == ({"y": "w"} if integer else {})


def test_layers_that_cannot_run_on_integers_are_left_out() -> None:
    model = text(
        """g (float[N,64] x, float[64,64] w, float[64,64] v, float[64,64] u, bool c) => (float[N,64] y) {
        a = MatMul (w, k) b = Gemm <alpha=2.0> (x, v) i = If (c) <
          then_branch = t () => (float[N,64] p) { p = MatMul (b, u) },
          else_branch = e () => (float[N,64] q) { q = Identity (b) }> y = Add (i, a) }""",
        w=weight(64, 64), v=weight(64, 64, seed=1), u=weight(64, 64, seed=2),
    )  # fmt: skip
    assert not placed(model).layers and not placed(model).values
    two = net(f"a = Conv {PADDED} (x, w) y = Conv {PADDED} (a, v)", "w", "v")
    assert names(placed(two, "w")) == ["a", "y"]
    assert not placed(two, "w", "v").values
