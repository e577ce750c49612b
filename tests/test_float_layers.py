"""Layers that stay in float for the accuracy of the outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, decibels, optimized, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.planning import float_layers, guard_goal, rounding_candidates

SCALES = np.where(np.arange(16) == 3, 3000.0, 1.0).astype(np.float32)


def pictures(count: int = 48) -> Array:
    return np.random.default_rng(6).standard_normal((count, 8, 10, 10)).astype(np.float32)


def network() -> ModelProto:
    """Three convolutions; between the last two, one channel is so large that no other is left of 8 bits."""
    first, last = weight(16, 16, 3, 3), weight(8, 16, 1, 1, seed=2)
    return text(
        """g (float[N,8,10,10] x, float[16,8,3,3] u, float[16,16,3,3] w, float[8,16,1,1] v) => (float[N,8,10,10] y)
        { a = Conv <pads=[1,1,1,1]> (x, u) r = Relu (a)
          b = Conv <pads=[1,1,1,1]> (r, w) s = Relu (b) y = Conv (s, v) }""",
        u=weight(16, 8, 3, 3, seed=1), w=first * SCALES[:, None, None, None], v=last / SCALES[None, :, None, None],
    )  # fmt: skip


def eight(model: ModelProto, **options: Any) -> mq.RunResult:
    chosen: dict[Any, Any] = {"data": {"x": pictures()}, "activations": 8, "bits": [7], "min_size": 16, **options}
    return mq.quantize(model, **chosen)


def test_the_layers_around_the_value_that_costs_most_stay_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    model = network()
    guarded, plain = eight(model), eight(model, guard=False)
    assert guarded.plan.settings["in_float"] == ["v", "w"] and plain.plan.settings["in_float"] == []
    assert optimized(guarded.model, tmp_path).count("QLinearConv") == 1
    assert optimized(plain.model, tmp_path).count("QLinearConv") == 3
    feed = {"x": pictures(64)[48:]}
    wanted = run(model, feed)[0]
    assert decibels(wanted, run(guarded.model, feed)[0]) > decibels(wanted, run(plain.model, feed)[0]) + 10


def test_no_more_work_goes_back_to_float_than_is_allowed() -> None:
    assert eight(network()).plan.settings["in_float"] == []


def test_outputs_that_are_near_enough_need_no_layer_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text(
        "g (float[N,8,10,10] x, float[16,8,3,3] u, float[8,16,3,3] w) => (float[N,8,6,6] y) "
        "{ a = Conv (x, u) r = Relu (a) y = Conv (r, w) }", u=weight(16, 8, 3, 3), w=weight(8, 16, 3, 3, seed=1),
    )  # fmt: skip

    def no_search(*_: object) -> set[str]:
        raise AssertionError("searched, though rounding costs nothing")

    monkeypatch.setattr(float_layers, "_search", no_search)
    assert eight(model).plan.settings["in_float"] == []


def test_classes_that_agree_are_near_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    model = network()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], axis=1))
    model.graph.output[0].name = "p"
    assert eight(model).plan.settings["in_float"] == ["v", "w"]
    monkeypatch.setattr(guard_goal, "GOOD_AGREEMENT", 0.0)
    assert eight(model).plan.settings["in_float"] == []


def test_a_warning_says_what_helps_layers_on_integers() -> None:
    made = eight(network())
    assert made.verification is not None
    assert any("keep more layers in float" in line for line in made.verification.warnings), made.verification.warnings


def test_the_summary_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    model, data, summary = (tmp_path / name for name in ("m.onnx", "d.npz", "s.json"))
    onnx.save(network(), model)
    np.savez(data, x=pictures())
    given = [str(model), str(tmp_path / "o.onnx"), "--activations", "8", "--data", str(data), "--min-size", "16"]
    assert main([*given, "--json", str(summary)]) == 0
    assert json.loads(summary.read_text())["integers"]["in_float"] == ["v", "w"]
    assert "2 kept in float for accuracy (--no-guard to round all)" in " ".join(capsys.readouterr().out.split())


def test_a_target_for_the_outputs_is_one_for_the_guard() -> None:
    """Any share of the time may be given up then."""
    made = mq.quantize(
        network(), data={"x": pictures()}, activations=8, min_sqnr=20, min_size=16, effort="fast"
    )  # fmt: skip
    assert made.plan.settings["in_float"] == ["v", "w"]
    assert made.verification is not None and made.verification.deployed is not None
    assert made.verification.deployed.sqnr_db is not None and made.verification.deployed.sqnr_db >= 20


def test_a_missed_target_makes_the_guard_stricter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_goal, "GOOD_NOISE", 1e9)
    wrong: list[int] = []

    def metric(path: Path) -> float:
        integer = sum(n.op_type == "QuantizeLinear" for n in onnx.load(path).graph.node)
        wrong.append(integer)
        return 1.0 if integer <= 2 else 0.5

    monkeypatch.setattr(guard_goal, "_STRICTER", 1e12)
    made = mq.quantize(
        network(), data={"x": pictures()}, activations=8, max_drop=0.01, metric=metric, min_size=16, effort="fast"
    )  # fmt: skip
    assert made.plan.settings["in_float"] and max(wrong) > 2
    with pytest.raises(mq.PromiseError, match="no plan reaches"):
        mq.quantize(
            network(), data={"x": pictures()}, activations=8, max_drop=0.01, metric=metric, min_size=16, effort="fast",
            guard=False,
        )  # fmt: skip


def test_products_over_ranges_of_each_run_stay_in_float_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    far = np.where(np.arange(256) == 3, 3000.0, 1.0).astype(np.float32)
    model = text(
        """g (float[N,256] x, float[256,256] u, float[256,256] w, float[256,256] v) => (float[N,256] y)
        { a = MatMul (x, u) r = Tanh (a) b = MatMul (r, w) s = Softplus (b) y = MatMul (s, v) }""",
        u=weight(256, 256), w=weight(256, 256, seed=1) * far, v=weight(256, 256, seed=2) / far[:, None],
    )  # fmt: skip
    data = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    monkeypatch.setattr(rounding_candidates, "STRENGTHS", ())
    found = [
        mq.quantize(model, data={"x": data}, activations="dynamic", bits=[7], guard=on).plan.settings["in_float"]
        for on in (True, False)
    ]
    assert found == [["v"], []]
