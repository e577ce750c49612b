"""--benchmark: times of the written model and the float one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import text, weight

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.verification import latency as timing
from mixquant_onnx.verification.latency import Latency, latency, text_of


def test_a_model_that_does_more_takes_longer() -> None:
    small = text("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul (x, w) }", w=weight(64, 64))
    large = text(
        "g (float[N,64] x, float[64,4096] v, float[4096,64] w) => (float[N,64] y) "
        "{ h = MatMul (x, v) y = MatMul (h, w) }", v=weight(64, 4096), w=weight(4096, 64),
    )  # fmt: skip
    feed = {"x": np.ones((256, 64), np.float32)}
    found = latency(small, large, feed)
    assert found.ratio > 3 and found.float_ms > 0


def test_other_processes_that_take_time_do_not_count(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirteen of the 21 runs of the second model take ten times as long."""
    turn = iter(range(42))

    def seconds(*_: object) -> float:
        at = next(turn)
        second = at % 4 in (1, 2)
        return 10e-3 if second and at < 26 else 1e-3

    monkeypatch.setattr(timing, "_count", lambda *_: 1)
    monkeypatch.setattr(timing, "_seconds", seconds)
    assert latency(model, model, {}).ratio == 1


def test_times_are_told_and_written(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, summary = tmp_path / "o.onnx", tmp_path / "s.json"
    assert main([str(model), str(output), "--benchmark", "--json", str(summary)]) == 0
    told = json.loads(summary.read_text())["latency"]
    assert [one["threads"] for one in told] == [1, 2]
    assert all(one["float_ms"] > 0 and one["written_ms"] > 0 for one in told)
    assert "time of one row:" in capsys.readouterr().out
    assert mq.quantize(model, output).latency == ()
    assert len(mq.quantize(model, output, benchmark=True).latency) == 2


def test_the_text_names_threads() -> None:
    found = [Latency(threads=1, float_ms=2.0, written_ms=1.0), Latency(threads=2, float_ms=1.0, written_ms=0.8)]
    assert text_of(found) == "1 ms, 0.50 of float's (1 thread); 0.8 ms, 0.80 of float's (2 threads)"


def test_without_an_input_there_is_nothing_to_time(tmp_path: Path, output: Path) -> None:
    unknown = text(
        "g (float[N,64] x, float[64,64] w) => (float[N,64] y) { h = Unknown (x) y = MatMul (h, w) }", w=weight(64, 64)
    )
    unknown.graph.node[0].domain = "nowhere"
    unknown.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    onnx.save(unknown, tmp_path / "u.onnx")
    result = mq.quantize(tmp_path / "u.onnx", output, benchmark=True, method="mse")
    assert result.latency == () and any("no times" in note for note in result.notes)
