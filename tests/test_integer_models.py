"""Layers on integer kernels: what ONNX Runtime runs, how near it is to float, and what the verification finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from cases import PROPERTIES, Array, Fails, classifier, decibels, optimized, quantized, run, text, weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.export import rewrite
from mixquant_onnx.export.activations import without_roundings
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.quantization.activations import placement
from mixquant_onnx.quantization.activations.ranges import METHODS
from mixquant_onnx.verification.saturation import largest_pair
from mixquant_onnx.verification.segments import least_agreement


@pytest.fixture(autouse=True)
def products_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones too, so that tests are quick."""
    monkeypatch.setattr(placement, "_LARGE_PRODUCT", 1)


def pictures(count: int = 40, size: int = 12) -> Array:
    random = np.random.default_rng(3)
    smooth = random.standard_normal((count, 3, size // 4, size // 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (smooth + 0.1 * random.standard_normal(smooth.shape)).astype(np.float32)


def network(opset: int = 17, ir: int = 8) -> ModelProto:
    """A residual block, depthwise convolution with Clip, pooling, a product and a Gemm."""
    lines = """g (float[N,3,12,12] x, float[16,3,3,3] w, float[16] b, float[16,16,3,3] v, float[16,1,3,3] d,
        float[24,16,1,1] p, float[864,64] m, float[80,64] q, float[80] c, float low, float high) => (float[N,80] y) {
        a = Conv <pads=[1,1,1,1]> (x, w, b) r = Relu (a) e = Conv <pads=[1,1,1,1]> (r, v) s = Add (e, r) t = Relu (s)
        f = Conv <group=16, pads=[1,1,1,1]> (t, d) k = Clip (f, low, high) h = Conv (k, p)
        n = MaxPool <kernel_shape=[2,2], strides=[2,2]> (h) i = Flatten (n) j = MatMul (i, m) z = Relu (j)
        y = Gemm <transB=1> (z, q, c) }"""
    model = text(
        lines, opset=opset, ir=ir, w=weight(16, 3, 3, 3), b=weight(16), v=weight(16, 16, 3, 3),
        d=3 * weight(16, 1, 3, 3), p=weight(24, 16, 1, 1), m=weight(864, 64), q=weight(80, 64), c=weight(80),
        low=np.array(0, np.float32), high=np.array(6, np.float32),
    )  # fmt: skip
    if ir == 3:
        model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
                                 for t in model.graph.initializer)  # fmt: skip
    return model


def integer(model: ModelProto, **options: Any) -> mq.RunResult:
    chosen: dict[Any, Any] = {"data": {"x": pictures()}, "min_size": 16, "activations": 8, **options}
    return mq.quantize(model, **chosen)


def test_layers_run_on_integers_and_outputs_stay_near(tmp_path: Path) -> None:
    model = network()
    result = integer(model)
    found = optimized(result.model, tmp_path)
    assert (
        found.count("QLinearConv") == 4
        and "QLinearAdd" in found
        and found.count("MatMulIntegerToFloat") + found.count("QLinearMatMul") == 2
    )
    assert not {"Conv", "Clip", "MatMul", "Gemm", "Add"} & set(found)
    for rows in (1, 5):
        feed = {"x": pictures(60)[-rows:]}
        assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 28
    assert result.verification is not None and result.verification.reference_sqnr_db is not None
    assert result.verification.reference_sqnr_db > 70 and not result.verification.overflowing
    assert result.nbytes_after < result.nbytes_before


@pytest.mark.parametrize(
    ("bits", "symmetric"), [(2, False), (3, True), (4, False), (5, True), (6, False), (6, True), (7, False)]
)
def test_weights_of_every_width_become_int8_as_they_are(bits: int, symmetric: bool, tmp_path: Path) -> None:
    result = integer(network(), bits=[bits], symmetric=symmetric, method="mse")
    assert {scheme.bits for scheme in result.plan.sites.values()} == {bits}
    assert optimized(result.model, tmp_path).count("QLinearConv") == 4
    assert set(result.rewritten.forms.values()) == {"int8"}


def test_onnx_itself_computes_the_same() -> None:
    result = integer(network(opset=21), bits=[5])
    feed = {"x": pictures(44)[-4:]}
    (wanted,) = cast(list[Array], ReferenceEvaluator(result.model).run(None, feed))
    assert decibels(wanted, run(result.model, feed)[0]) > 30


@pytest.mark.parametrize(("opset", "ir"), [(11, 6), (12, 3), (21, 10)])
def test_older_models_are_converted(opset: int, ir: int, tmp_path: Path) -> None:
    result = integer(network(opset, ir), bits=[6])
    assert optimized(result.model, tmp_path).count("QLinearConv") == 4
    assert result.rewritten.opset[1] >= 13


def test_outputs_that_a_layer_gives_as_codes_keep_their_names() -> None:
    model = text(
        "g (float[N,3,12,12] x, float[64,3,3,3] w) => (float[N,64,10,10] y, float[N,64,10,10] z) "
        "{ y = Conv (x, w) z = Relu (y) }", w=weight(64, 3, 3, 3),
    )  # fmt: skip
    result = integer(model)
    assert [value.name for value in result.model.graph.output] == ["y", "z"]
    feed = {"x": pictures(3)}
    for wanted, got in zip(run(model, feed), run(result.model, feed), strict=True):
        assert decibels(wanted, got) > 30


def saturating(x: Array, w: Array) -> Array:
    """x [M, K] of uint8 by w [K, N] of int8 as VPMADDUBSW and 32-bit sums compute it."""
    products = x.astype(np.int32)[:, :, None] * w.astype(np.int32)[None]
    padded = np.pad(products, ((0, 0), (0, products.shape[1] % 2), (0, 0)))
    pairs = padded.reshape(len(x), -1, 2, w.shape[1]).sum(axis=2)
    return np.asarray(np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(axis=1))


@PROPERTIES
@given(st.integers(2, 8), st.booleans(), st.integers(0, 1 << 30))
def test_pairs_of_products_fit_in_16_bits_but_for_weights_of_8_bits(bits: int, symmetric: bool, seed: int) -> None:
    symmetric = symmetric or bits >= 7
    random = np.random.default_rng(seed)
    layout, grid = WeightAxes(r=1, q=1), Granularity(per="channel")
    q = quantized((24, 7), layout, bits, grid, symmetric)
    levels = q.codes.astype(np.int32) - q.zero_point.reshape(1, -1)
    low, high = largest_pair(q)
    x = np.where(random.random((16, 24)) < 0.5, 255, random.integers(0, 256, (16, 24)))
    exact = x @ levels
    if bits < 8:
        assert low >= -(1 << 15) and high < 1 << 15
        np.testing.assert_array_equal(saturating(x, levels), exact)
    ordered = np.sort(levels, axis=0)
    worst = np.full((1, 2), 255)
    assert (worst @ ordered[-2:]).max() <= high and (worst @ ordered[:2]).min() >= low


def test_weights_of_8_bits_are_for_vnni_alone_and_the_summary_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data, summary = (tmp_path / name for name in ("m.onnx", "d.npz", "s.json"))
    onnx.save(network(), path)
    np.savez(data, x=pictures())
    given = [str(path), str(tmp_path / "o.onnx"), "--data", str(data), "--json", str(summary), "--min-size", "16"]
    given += ["--activations", "8"]
    assert main([*given, "--bits", "8", "--cpu", "vnni"]) == 0
    told = json.loads(summary.read_text())["integers"]
    assert told["layers"] == 6 and told["overflowing"]
    assert "right on processors with VNNI alone" in " ".join(capsys.readouterr().out.split())
    assert main([*given, "--bits", "7"]) == 0
    told = json.loads(summary.read_text())["integers"]
    assert told["layers"] == 6 and told["overflowing"] == [] and told["ranges"] in METHODS
    assert "the same results with VNNI and without" in " ".join(capsys.readouterr().out.split())


def test_a_graph_that_computes_something_else_between_roundings_is_found() -> None:
    made = integer(network(), bits=[7]).model
    feed = {"x": pictures(4)}
    same = least_agreement(made, made, [feed])
    assert same is not None and same.before == float("inf")
    changed = ModelProto.FromString(made.SerializeToString())
    bias = next(tensor for tensor in changed.graph.initializer if tensor.name == "b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.05), "b"))
    other = least_agreement(made, changed, [feed])
    assert other is not None and other.before < 70 and other.where == "'r.float'"
    assert least_agreement(made, without_roundings(made), [feed]) is None


def test_a_wrong_file_is_not_written(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rewrite._put_into

    def without_bias(model: ModelProto, *given: Any) -> None:
        plain(model, *given)
        node = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3)
        del node.input[2]

    monkeypatch.setattr(rewrite, "_put_into", without_bias)
    with pytest.raises(mq.ProofError, match="verification failed"):
        mq.quantize(network(), output, data={"x": pictures()}, min_size=16, activations=8)
    assert not output.exists()


def test_a_value_that_is_not_finite_or_always_zero_stays_float(tmp_path: Path) -> None:
    model = network()
    relu = next(node for node in model.graph.node if node.output[0] == "r")
    relu.op_type = "Log"
    relu.input[0] = "a_squared"
    model.graph.node.insert(1, onnx.helper.make_node("Relu", ["a"], ["a_squared"]))
    result = integer(model, verify=False)
    assert any("'r' is NaN or infinite" in note for note in result.notes)
    dead = network()
    dead.graph.node.insert(0, onnx.helper.make_node("Mul", ["x", "nothing"], ["x0"]))
    dead.graph.node[1].input[0] = "x0"
    dead.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    result = integer(dead)
    assert any("'x0' is 0 on all rows" in note for note in result.notes)
    assert optimized(result.model, tmp_path).count("QLinearConv") == 3


def test_a_model_without_such_layers_is_quantized_as_without_the_option(tmp_path: Path) -> None:
    model = text("g (int64[N] i, float[100,64] w) => (float[N,64] y) { y = Gather (w, i) }", w=weight(100, 64))
    data = {"i": np.arange(40)}
    result = mq.quantize(model, data=data, activations=8, bits=[4])
    assert any("no layer runs on integers" in note for note in result.notes)
    assert result.model == mq.quantize(model, data=data, bits=[4]).model


def test_bad_input_is_refused(model: Path, output: Path, fails: Fails) -> None:
    data = model.with_name("data.npz")
    np.savez(data, x=weight(40, 64))
    eight = [model, output, "--activations", "8"]
    assert "--data" in fails(2, *eight)
    assert "--cpu vnni" in fails(2, *eight, "--data", data, "--bits", "8")
    assert "--granularity" in fails(2, *eight, "--data", data, "--granularity", "block:32")
    assert "--min-ort" in fails(2, *eight, "--data", data, "--min-ort", "1.22")
    assert "choose 8" in fails(2, model, output, "--activations", "4", "--data", data)
    onnx.save(mq.quantize(classifier(), data={"x": weight(40, 64)}, activations=8).model, model)
    assert "on integers already" in fails(2, *eight, "--data", data)


def test_a_budget_is_kept_where_layers_have_different_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_LARGE_PRODUCT", 1 << 30)  # products stay in float, with widths up to 8
    result = integer(network(), avg_bits=5)
    assert result.average_bits <= 5 and set(result.rewritten.forms.values()) == {"int8", "folded"}
    again = mq.apply_plan(network(), result.plan, data={"x": pictures()}, activations=8, min_size=16)
    assert again.model == result.model


@pytest.mark.slow
def test_a_target_is_met_by_the_file_with_integers(output: Path) -> None:
    result = mq.quantize(network(), output, data={"x": pictures(64)}, activations=8, min_size=16, min_sqnr=18.0)
    assert result.verification is not None and result.verification.deployed is not None
    assert (result.verification.deployed.sqnr_db or 0) >= 18 and "int8" in result.rewritten.forms.values()
    (point,) = mq.sweep(network(), average_bits=[5], data={"x": pictures(64)}, activations=8, min_size=16)
    assert point.sqnr_db is not None and point.sqnr_db > 18
    assert mq.inspect(network(), data={"x": pictures(64)}, activations=8, min_size=16).plan.sites


def test_a_run_of_weights_alone_says_what_integers_would_bring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output, summary = (tmp_path / name for name in ("m.onnx", "o.onnx", "s.json"))
    onnx.save(network(), path)
    assert main([str(path), str(output), "--data-free", "--min-size", "16", "--json", str(summary)]) == 0
    (hint,) = json.loads(summary.read_text())["hints"]
    assert hint.startswith("--activations 8 with --data runs 6 of 6 layers on 8-bit integers")
    assert f"hint: {hint}" in " ".join(capsys.readouterr().out.split())
    onnx.save(text("g (int64[N] i, float[100,64] w) => (float[N,64] y) { y = Gather (w, i) }", w=weight(100, 64)), path)
    assert main([str(path), str(output), "--data-free", "--json", str(summary)]) == 0
    assert json.loads(summary.read_text())["hints"] == []
    onnx.save(integer(network()).model, path)
    assert main([str(path), str(output), "--data-free", "--allow-unchanged", "--json", str(summary)]) == 0
    assert json.loads(summary.read_text())["hints"] == []


def test_a_plan_of_more_bits_than_integer_kernels_take_is_refused() -> None:
    plan = mq.quantize(network(), bits=[8], min_size=16, data_free=True, verify=False).plan
    with pytest.raises(mq.PlanError, match="at most 7"):
        mq.apply_plan(network(), plan, data={"x": pictures()}, activations=8, min_size=16)
