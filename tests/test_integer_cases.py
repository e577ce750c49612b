"""Graphs around layers on integers that once went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Array, decibels, optimized, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.planning import float_layers, guard_goal
from mixquant_onnx.quantization.activations import placement

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")


@pytest.fixture(autouse=True)
def products_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones too, so that tests are quick."""
    monkeypatch.setattr(placement, "_LARGE_PRODUCT", 1)


def rows(*shape: int) -> Array:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


def integer(model: ModelProto, data: dict[str, Array], **options: Any) -> mq.RunResult:
    chosen: dict[Any, Any] = {"activations": 8, "bits": [7], "min_size": 16, "method": "mse", **options}
    return mq.quantize(model, data=data, **chosen)


def test_a_value_that_loses_the_grid_of_the_one_before_it_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    model = text(
        """g (float[N,4,12,12] x, float[16,4,3,3] u, float[16,16,3,3] w, float[16,16,3,3] v) => (float[N,16,2,2] y)
        { a = Conv (x, u) r = Relu (a) p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)
          b = Conv <pads=[1,1,1,1]> (p, w) s = Relu (b) c = Conv (s, v) y = MaxPool <kernel_shape=[2,2]> (c) }""",
        u=weight(16, 4, 3, 3), w=weight(16, 16, 3, 3, seed=1), v=weight(16, 16, 3, 3, seed=2),
    )  # fmt: skip
    data = rows(48, 4, 12, 12)
    data[:, 0] *= 1000
    monkeypatch.setattr(float_layers, "_search", lambda *_: {"u"})
    monkeypatch.setattr(guard_goal, "GOOD_NOISE", 0.0)
    monkeypatch.setattr(float_layers, "_LEAST_GAIN", -1e9)
    result = integer(model, {"x": data})
    assert result.plan.settings["in_float"] == ["u"] and result.rewritten.forms["w"] == "int8"


@pytest.mark.parametrize("join", ["s = Add (r, c)", "s = Concat <axis=1> (r, c)"])
def test_a_value_that_is_always_zero_is_not_rounded_for_a_sum_either(join: str) -> None:
    channels = 16 if "Concat" in join else 8
    model = text(
        f"""g (float[N,4,8,8] x, float[8,4,3,3] u, float[8] b, float[8,4,3,3] w, float[8,{channels},3,3] v)
        => (float[N,8,4,4] y) {{ a = Conv (x, u, b) r = Relu (a) c = Conv (x, w) {join} y = Conv (s, v) }}""",
        u=weight(8, 4, 3, 3), b=np.full(8, -1000, np.float32), w=weight(8, 4, 3, 3, seed=1),
        v=weight(8, channels, 3, 3),
    )  # fmt: skip
    result = integer(model, {"x": rows(40, 4, 8, 8)})
    assert any("'r' is 0 on all rows" in note for note in result.notes)
    feed = {"x": rows(3, 4, 8, 8)}
    assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 25


def test_the_scale_of_a_normalization_that_a_branch_reads_stays() -> None:
    model = text(
        """g (float[N,64] x, bool c, float[64] g, float[64] b, float[64,64] w) => (float[N,64] y)
        { h = LayerNormalization (x, g, b) q = MatMul (h, w)
          y = If (c) < then_branch = t () => (float[N,64] p) { p = Mul (q, g) },
                       else_branch = e () => (float[N,64] z) { z = Identity (q) }> }""",
        g=np.where(np.arange(64) % 20 == 3, 60, 1).astype(np.float32), b=weight(64), w=weight(64, 64),
    )  # fmt: skip
    result = integer(model, {"x": rows(64, 64), "c": np.array(False)})
    for taken in (False, True):
        feed = {"x": rows(4, 64), "c": np.array(taken)}
        assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 20


def test_a_weight_that_is_read_both_ways_round_stays_float() -> None:
    model = text(
        "g (float[N,64] x, float[64,64] w, float[64] b) => (float[N,64] y) "
        "{ h = MatMul (x, w) r = Tanh (h) y = Gemm <transB=1> (r, w, b) }", w=weight(64, 64), b=weight(64),
    )  # fmt: skip
    assert integer(model, {"x": rows(64, 64)}).rewritten.forms == {"w": "folded"}


@pytest.mark.parametrize("activations", [8, "dynamic"])
@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_products_with_relu_run_on_integers_wherever_the_relu_goes(
    op: str, bias: str, activations: Any, tmp_path: Path
) -> None:
    if op == "MatMul":
        layers = "h = MatMul (x, w) z = Add (h, b) r = Relu (z)" if bias else "h = MatMul (x, w) r = Relu (h)"
    else:
        layers = f"h = Gemm (x, w{bias}) r = Relu (h)"
    model = text(
        f"""g (float[N,64] x, float[64,64] w, float[64] b, float[64,64] v) => (float[N,64] y, float[N,64] o)
        {{ {layers} k = MatMul (r, v) q = Relu (k) o = Sin (r) y = Sin (q) }}""",
        w=weight(64, 64), b=weight(64), v=weight(64, 64, seed=1),
    )  # fmt: skip
    result = integer(model, {"x": rows(64, 64)}, activations=activations)
    found = optimized(result.model, tmp_path)
    kernels = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul")
    assert sum(found.count(kernel) for kernel in kernels) == 2 and "MatMul" not in found and "Gemm" not in found
    feed = {"x": rows(5, 64)}
    for wanted, got in zip(run(model, feed), run(result.model, feed), strict=True):
        assert decibels(wanted, got) > 25


def test_layers_that_no_kernel_takes_have_no_rounding(tmp_path: Path) -> None:
    model = text(
        "g (float[4,N,64] x, float[4,64,64] w, float[64,40] v) => (float[4,N,40] y) "
        "{ h = MatMul (x, w) t = Tanh (h) y = MatMul (t, v) }", w=weight(4, 64, 64), v=weight(64, 40),
    )  # fmt: skip
    result = integer(model, {"x": rows(4, 40, 64)})
    assert result.rewritten.forms == {"w": "folded", "v": "int8"}
    assert optimized(result.model, tmp_path).count("QuantizeLinear") == 1


def test_a_batch_normalization_is_folded_as_in_float(tmp_path: Path) -> None:
    model = text(
        """g (float[N,4,8,8] x, float[8,4,3,3] u, float[8] s, float[8] b, float[8,8,3,3] w) => (float[N,8,4,4] y)
        { a = Conv (x, u) n = BatchNormalization (a, s, b, b, s) r = Relu (n) y = Conv (r, w) }""",
        u=weight(8, 4, 3, 3), s=np.abs(weight(8)) + 1, b=weight(8), w=weight(8, 8, 3, 3),
    )  # fmt: skip
    found = optimized(integer(model, {"x": rows(40, 4, 8, 8)}).model, tmp_path)
    assert "BatchNormalization" not in found and "QLinearConv" in found


def test_a_clip_between_computed_bounds_is_not_part_of_a_range(tmp_path: Path) -> None:
    model = text(
        """g (float[N,4,8,8] x, float[8,4,3,3] u, float[8,8,3,3] w) => (float[N,8,4,4] y)
        { m = ReduceMax <keepdims=0> (x) a = Conv (x, u) r = Clip (a, , m) y = Conv (r, w) }""",
        u=weight(8, 4, 3, 3), w=weight(8, 8, 3, 3),
    )  # fmt: skip
    result = integer(model, {"x": rows(40, 4, 8, 8)})
    found = optimized(result.model, tmp_path)
    assert found.count("QLinearConv") == 2 and "Clip" in found
