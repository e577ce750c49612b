"""--max-ms, --for, and memory in --benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.config import config_of
from mixquant_onnx.config.parsing import milliseconds_of
from mixquant_onnx.planning import guard_goal
from mixquant_onnx.verification import benchmark
from mixquant_onnx.verification.latency import Latency
from mixquant_onnx.verification.memory import Memory, memory, text_of


def test_limits_are_shares_or_milliseconds() -> None:
    assert milliseconds_of("0.5x", 8.0) == 4 and milliseconds_of("12", 8.0) == milliseconds_of(" 12 ms", 1.0) == 12
    for wrong in ("half", "0", "-1", "50%", "1e999"):
        with pytest.raises(mq.OptionError, match=r"--max-ms .* is no limit"):
            milliseconds_of(wrong, 1.0)


def times(monkeypatch: pytest.MonkeyPatch, written: list[float]) -> None:
    """Every measurement takes the next of `written` as the share of the float model's time."""

    def measured(original: object, other: object, feed: object, threads: int = 1) -> Latency:
        return Latency(
            threads=threads, float_ms=10.0, written_ms=10 * (written.pop(0) if len(written) > 1 else written[0])
        )

    monkeypatch.setattr(benchmark, "latency", measured)


def test_a_model_that_takes_longer_is_not_written(model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, [0.7])
    for verify in (True, False):
        with pytest.raises(mq.PromiseError, match=r"--max-ms 0.6x is not reached: 7 ms, 0.70 of float's"):
            mq.quantize(model, output, max_ms="0.6x", verify=verify)
        assert not output.exists()
    assert main([str(model), str(output), "--max-ms", "6.5"]) == 9
    mq.quantize(model, output, max_ms=7)
    assert output.exists()


def integers() -> ModelProto:
    """A net whose outputs are far from float's on integers."""
    scales = np.where(np.arange(16) == 3, 3000.0, 1.0).astype(np.float32)
    return text(
        """g (float[N,8,10,10] x, float[16,8,3,3] u, float[16,16,3,3] w, float[8,16,1,1] v) => (float[N,8,10,10] y)
        { a = Conv <pads=[1,1,1,1]> (x, u) r = Relu (a)
          b = Conv <pads=[1,1,1,1]> (r, w) s = Relu (b) y = Conv (s, v) }""",
        u=weight(16, 8, 3, 3, seed=1), w=weight(16, 16, 3, 3) * scales[:, None, None, None],
        v=weight(8, 16, 1, 1, seed=2) / scales[None, :, None, None],
    )  # fmt: skip


def test_fewer_layers_stay_in_float_where_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    data = np.random.default_rng(6).standard_normal((48, 8, 10, 10)).astype(np.float32)
    for shares, kept in (([0.4], ["v", "w"]), ([0.8, 0.4], [])):
        times(monkeypatch, shares)
        made = mq.quantize(integers(), data={"x": data}, activations=8, max_ms="0.5x", min_size=16)
        assert made.plan.settings["in_float"] == kept
    times(monkeypatch, [0.8])
    with pytest.raises(mq.PromiseError, match="--max-ms"):
        mq.quantize(integers(), data={"x": data}, activations=8, max_ms="0.5x", min_size=16)


def test_a_plan_keeps_its_layers_in_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.9)
    data = np.random.default_rng(6).standard_normal((48, 8, 10, 10)).astype(np.float32)
    made = mq.quantize(integers(), tmp_path / "a.onnx", data={"x": data}, activations=8, min_size=16)
    monkeypatch.setattr(guard_goal, "_MOST_TIME", 0.0)
    again = mq.apply_plan(integers(), made.plan, tmp_path / "b.onnx", data={"x": data}, activations=8,
                          min_size=16)  # fmt: skip
    assert again.plan.settings["in_float"] == ["v", "w"]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("given", "activations", "fused"),
    [
        ({"optimize_for": "speed"}, "dynamic", "auto"),
        ({"optimize_for": "speed", "data": "d.npz"}, "8", "auto"),
        ({"optimize_for": "speed", "activations": "float"}, "float", "auto"),
        ({"optimize_for": "size"}, "float", "never"),
        ({"optimize_for": "memory"}, "float", "packed"),
        ({"optimize_for": "memory", "fused": "auto"}, "float", "auto"),
    ],
)
def test_a_purpose_stands_for_other_options(given: dict[str, object], activations: str, fused: str) -> None:
    config = config_of(**given)
    assert (config.activations.activations, config.form.fused) == (activations, fused)


def test_a_purpose_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = text("g (float[N,256] x, float[256,300] w) => (float[N,300] y) { y = MatMul (x, w) }", w=weight(256, 300))
    onnx.save(model, tmp_path / "m.onnx")
    assert main([str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--for", "speed"]) == 0
    assert "on 8-bit integers: 1 of 1 weights" in " ".join(capsys.readouterr().out.split())
    assert main([str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--for", "fun"]) == 2


def test_a_session_of_many_weights_holds_more_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = text(
        "g (float[1,64] x, float[64,200000] w) => (float[1,200000] y) { y = MatMul (x, w) }", w=weight(64, 200000)
    )
    small = text("g (float[1,64] x, float[64,64] w) => (float[1,64] y) { y = MatMul (x, w) }", w=weight(64, 64))
    feed = {"x": np.ones((1, 64), np.float32)}
    found = [memory(model, feed) for model in (large, small)]
    assert found[0] is not None and found[1] is not None
    assert found[0].held > 50e6 > found[1].held > 0 and found[0].peak >= found[0].held
    assert memory(small, {"z": feed["x"]}) is None
    onnx.save(small, tmp_path / "m.onnx")
    assert main([str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--benchmark", "--json", str(tmp_path / "s")]) == 0
    told = json.loads((tmp_path / "s").read_text())["memory"]
    assert set(told) == {"float", "written"} and told["float"]["held"] > 0
    assert "memory of a session:" in capsys.readouterr().out


def test_the_text_of_memory() -> None:
    before, after = Memory(held=20_000_000, peak=40_000_000), Memory(held=10_000_000, peak=50_000_000)
    assert text_of(before, after) == "10 MB, 0.50 of float's, after a run; peak 50 MB, 1.25 of float's"
