"""Layers that float runs more quickly stay in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import optimized, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main


def convolutions(channels: int, between: str = "r = Relu (a)") -> ModelProto:
    shape = f"float[{channels},{channels},3,3]"
    return text(
        f"""g (float[N,{channels},10,10] x, {shape} w, {shape} v) => (float[N,{channels},6,6] y)
        {{ a = Conv (x, w) {between} y = Conv (r, v) }}""",
        w=weight(channels, channels, 3, 3), v=weight(channels, channels, 3, 3, seed=1),
    )  # fmt: skip


def data(model: ModelProto) -> dict[str, Any]:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return {"x": np.random.default_rng(4).standard_normal((40, channels, 10, 10)).astype(np.float32)}


def test_a_net_of_narrow_layers_is_quicker_in_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = convolutions(4)
    made = mq.quantize(model, activations=8, data=data(model), method="minmax", allow_unchanged=True)
    assert any("no layer runs on integers, as all are so small" in note for note in made.notes)
    assert "QuantizeLinear" not in {node.op_type for node in made.model.graph.node}
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **data(model))
    given = [str(tmp_path / name) for name in ("m.onnx", "o.onnx")]
    assert main([*given, "--activations", "8", "--data", str(tmp_path / "d.npz"), "--allow-unchanged"]) == 0
    assert "float is quicker" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("between", ["r = Relu (a)", "t = Tanh (a) r = Tanh (t)"])
def test_wide_layers_are_quicker_on_integers_alone_too(between: str, tmp_path: Path) -> None:
    model = convolutions(48, between)
    made = mq.quantize(model, activations=8, data=data(model), method="minmax", guard=False)
    assert optimized(made.model, tmp_path).count("QLinearConv") == 2
    assert made.plan.settings["in_float_for_speed"] == []


def test_a_narrow_layer_that_hands_codes_to_no_other_stays_in_float(tmp_path: Path) -> None:
    model = text(
        """g (float[N,4,10,10] x, float[4,4,3,3] u, float[48,4,3,3] w, float[48,48,3,3] v) => (float[N,48,4,4] y)
        { a = Conv (x, u) t = Tanh (a) b = Conv (t, w) r = Relu (b) y = Conv (r, v) }""",
        u=weight(4, 4, 3, 3), w=weight(48, 4, 3, 3), v=weight(48, 48, 3, 3),
    )  # fmt: skip
    made = mq.quantize(model, activations=8, data=data(model), method="minmax", guard=False)
    found = optimized(made.model, tmp_path)
    assert made.plan.settings["in_float_for_speed"] == ["u"] and found.count("QLinearConv") == 2 and "Conv" in found


def test_layers_of_few_weights_run_on_integers_between_others(tmp_path: Path) -> None:
    model = text(
        """g (float[N,4,10,10] x, float[16,4,3,3] u, float[16,1,3,3] w, float[48,16,3,3] v) => (float[N,48,4,4] y)
        { a = Conv (x, u) r = Relu (a) b = Conv <group=16> (r, w) s = Relu (b) y = Conv (s, v) }""",
        u=weight(16, 4, 3, 3), w=weight(16, 1, 3, 3), v=weight(48, 16, 3, 3),
    )  # fmt: skip
    made = mq.quantize(model, activations=8, data=data(model), method="minmax", guard=False)
    assert optimized(made.model, tmp_path).count("QLinearConv") == 3
    kept = mq.quantize(model, activations=8, data=data(model), method="minmax", guard=False, min_size=256)
    assert "w" not in kept.plan.sites
