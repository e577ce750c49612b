"""LSTMs on 8-bit integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, decibels, optimized, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.export.quantized_lstm import KERNEL, plain_lstms
from mixquant_onnx.verification import lstms


def network(units: int = 128, directions: int = 1, attributes: str = "", inputs: int = 128) -> ModelProto:
    direction = "forward" if directions == 1 else "bidirectional"
    rows, shape = 4 * units, f"{directions},{4 * units}"
    return text(
        f"""g (float[S,N,{inputs}] x, float[{shape},{inputs}] w, float[{shape},{units}] r,
        float[{directions},{2 * rows}] b) => (float[S,{directions},N,{units}] y, float[{directions},N,{units}] h)
        {{ t = Tanh (x) y, h, c = LSTM <hidden_size={units}, direction="{direction}"{attributes}> (t, w, r, b) }}""",
        w=0.1 * weight(directions, rows, inputs), r=0.1 * weight(directions, rows, units, seed=1),
        b=0.1 * weight(directions, 2 * rows, seed=2),
    )  # fmt: skip


def dynamic(model: ModelProto, output: Path | None = None, **options: Any) -> mq.RunResult:
    chosen: dict[Any, Any] = {"bits": [7], "method": "mse", **options}
    return mq.quantize(model, output, activations="dynamic", data_free=True, **chosen)


def data(model: ModelProto, steps: int = 12, count: int = 2) -> dict[str, Array]:
    inputs = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return {"x": np.random.default_rng(3).standard_normal((steps, count, inputs)).astype(np.float32)}


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bits", [3, 6, 7])
def test_an_lstm_runs_on_integers(bits: int, directions: int, tmp_path: Path) -> None:
    model = network(directions=directions)
    made = dynamic(model, tmp_path / "o.onnx", bits=[bits])
    assert KERNEL in optimized(made.model, tmp_path) and made.rewritten.forms == {"w": "int8", "r": "int8"}
    assert made.nbytes_after < (bits + 1) / 32 * made.nbytes_before
    feed = data(model)
    for got, want in zip(run(made.model, feed), run(model, feed), strict=True):
        assert decibels(want, got) > (8 if bits == 3 else 25)
    proof = made.verification
    assert proof is not None and proof.reference_sqnr_db is not None and proof.reference_sqnr_db > 80
    assert not proof.overflowing
    assert [one.domain for one in onnx.load(tmp_path / "o.onnx").opset_import].count("com.microsoft") == 1


def test_weights_of_8_bits_need_vnni() -> None:
    made = dynamic(network(), bits=[8], cpu="vnni")
    assert KERNEL in {node.op_type for node in made.model.graph.node}
    assert made.verification is not None and set(made.verification.overflowing) == {"w", "r"}


def test_the_plain_form_has_the_same_weights() -> None:
    model = network(directions=2)
    made = dynamic(model)
    plain = plain_lstms(made.model)
    assert plain_lstms(model) is model and {n.op_type for n in plain.graph.node} >= {"LSTM", "DequantizeLinear"}
    feed = data(model)
    for got, other in zip(run(made.model, feed), run(plain, feed), strict=True):
        assert decibels(got, other) > 30


@pytest.mark.parametrize("others", [{"units": 32}, {"attributes": ", clip=3.0"}, {"attributes": ", input_forget=1"}])
def test_other_lstms_stay_in_float(others: dict[str, Any]) -> None:
    made = dynamic(network(**others))
    assert "LSTM" in {node.op_type for node in made.model.graph.node}
    assert any("no layer runs on integers" in note for note in made.notes)


def test_an_lstm_with_one_weight_in_float_stays_in_float() -> None:
    model = network()
    made = dynamic(model, exclude=["r"])
    assert "LSTM" in {node.op_type for node in made.model.graph.node}
    feed = data(model)
    assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > 25


def test_an_lstm_beside_convolutions(tmp_path: Path) -> None:
    model = text(
        """g (float[N,64,20] x, float[128,64,3] k, float[1,512,128] w, float[1,512,128] r) => (float[18,1,N,128] y)
        { c = Conv (x, k) a = Relu (c) t = Transpose <perm=[2,0,1]> (a)
          y, h = LSTM <hidden_size=128> (t, w, r) }""",
        k=weight(128, 64, 3), w=0.1 * weight(1, 512, 128), r=0.1 * weight(1, 512, 128, seed=1),
    )  # fmt: skip
    rows = np.random.default_rng(3).standard_normal((40, 64, 20)).astype(np.float32)
    made = mq.quantize(model, activations=8, data={"x": rows}, bits=[7])
    found = optimized(made.model, tmp_path)
    assert "QLinearConv" in found and KERNEL in found
    assert decibels(run(model, {"x": rows[:4]})[0], run(made.model, {"x": rows[:4]})[0]) > 20


@pytest.mark.parametrize("share", [12, 18])
def test_a_size_is_kept(share: int, tmp_path: Path) -> None:
    made = dynamic(network(), tmp_path / "o.onnx", max_size=f"{share}%", bits="2-8")
    assert (tmp_path / "o.onnx").stat().st_size == made.nbytes_after <= share / 100 * made.nbytes_before
    assert KERNEL in {node.op_type for node in made.model.graph.node}


def test_another_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstms, "MOST_NOISE", 1e-9)
    with pytest.raises(mq.ProofError, match="on integers it computes something else"):
        dynamic(network())


def test_the_summary_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    given = [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--activations", "dynamic", "--data-free"]
    assert main(given) == 0
    assert "on 8-bit integers: 2 of 2 weights" in " ".join(capsys.readouterr().out.split())
