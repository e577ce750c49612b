"""Models over the limit of protobuf, and what is written outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import run, text, weight
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.model import external
from mixquant_onnx.model.external import write_outside
from mixquant_onnx.runtime import session
from mixquant_onnx.runtime.session import Session


def looped() -> onnx.ModelProto:
    """A weight in the graph of an If."""
    model = text(
        """g (float[N,64] x, bool c, float[64,64] w) => (float[N,64] y) {
          y = If (c) <then_branch = a () => (float[N,64] z) { z = MatMul (x, v) },
                      else_branch = b () => (float[N,64] u) { u = MatMul (x, w) }> }""",
        w=weight(64, 64),
    )  # fmt: skip
    branch = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    branch.initializer.append(onnx.numpy_helper.from_array(weight(64, 64, seed=1), "v"))
    return model


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_what_is_written_outside_is_read_again(name: str, tmp_path: Path) -> None:
    model = onnx.load(ROOT / "models" / name / "model.onnx")
    before = model.SerializeToString(deterministic=True)
    assert [file.name for file in write_outside(model, tmp_path / "m.onnx", "m.data")] == ["m.onnx", "m.data"]
    assert model.SerializeToString(deterministic=True) == before
    assert (tmp_path / "m.onnx").stat().st_size < 0.1 * len(before)
    again = onnx.load(tmp_path / "m.onnx")
    for one, other in zip(model.graph.initializer, again.graph.initializer, strict=True):
        assert (one.name, one.dims, one.raw_data) == (other.name, other.dims, other.raw_data)
    del model.graph.initializer[:], again.graph.initializer[:]
    assert model == again


def test_weights_inside_of_branches_go_outside_too(tmp_path: Path) -> None:
    model = looped()
    write_outside(model, tmp_path / "m.onnx", "m.data")
    assert (tmp_path / "m.data").stat().st_size == 2 * 64 * 64 * 4
    x = weight(3, 64, seed=2)
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        np.testing.assert_array_equal(run(model, feed)[0], run(onnx.load(tmp_path / "m.onnx"), feed)[0])


def test_a_small_model_has_no_second_file(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_text("old")
    model = text("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    assert write_outside(model, tmp_path / "m.onnx", "m.data") == [tmp_path / "m.onnx"]
    assert not (tmp_path / "m.data").exists()


def test_a_session_of_a_large_model_is_made_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered, as 2 GB take long."""
    model = looped()
    feed = {"x": weight(3, 64, seed=2), "c": np.array(True)}
    wanted = Session(model).run(feed)
    monkeypatch.setattr(external, "LARGEST_PROTOBUF", 1000)
    made: list[Path] = []

    def written(model: onnx.ModelProto, path: Path, name: str) -> list[Path]:
        made.append(path)
        return write_outside(model, path, name)

    monkeypatch.setattr(session, "write_outside", written)
    np.testing.assert_array_equal(Session(model).run(feed)[0], wanted[0])
    assert len(made) == 1 and not made[0].exists()


@pytest.mark.slow
def test_a_model_over_2_gb_is_quantized_and_verified(tmp_path: Path) -> None:
    steps = " ".join(f"h{place + 1} = MatMul (h{place}, w{place})" for place in range(9))
    model = text(f"g (float[N,8192] h0) => (float[N,8192] h9) {{ {steps} }}", opset=21)
    random = np.random.default_rng(0)
    for place in range(9):
        values = random.standard_normal((8192, 8192), np.float32) / 90
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"w{place}"))
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="in.data")
    del model
    result = mq.quantize(tmp_path / "in.onnx", tmp_path / "out.onnx", bits=[4], rule="paper", method="minmax",
                         data_free=True, rounding="nearest", fused="packed")  # fmt: skip
    assert result.nbytes_before > 2**31 and result.nbytes_after < 0.13 * result.nbytes_before
    assert result.verification is not None and result.verification.quality
