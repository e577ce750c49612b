"""Models over the limit of protobuf, and what is written outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import feed_for, run, text, weight
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.config.stages import Fused
from mixquant_onnx.errors import ProofError
from mixquant_onnx.model import external, files, scratch
from mixquant_onnx.model.external import write_outside
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import raw_bytes, raw_nbytes
from mixquant_onnx.runtime import session
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification import large, slices


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
    found = result.verification
    assert found is not None and found.codes == 9 and not found.quality
    assert any("9 of 9 layers were run alone" in note for note in found.notes)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is taken for one that is too large to be run."""
    monkeypatch.setattr(external, "LARGEST_PROTOBUF", 1000)
    monkeypatch.setattr(files, "LARGEST_PROTOBUF", 1000)
    monkeypatch.setattr(scratch, "MAPPED_FROM", 64)


FORMS: list[dict[str, Any]] = [
    {"fused": "never"}, {"fused": "packed"}, {"fused": "always"}, {"target": "qdq"}, {"bits": [3, 8]},
    {"granularity": "block:32"}, {"jobs": 2},
]  # fmt: skip


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize(
    ("name", "options"), [("digits_cnn", FORMS[0]), *(("digits_transformer", form) for form in FORMS)]
)
def test_a_large_model_is_verified_without_being_run(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = _outside(ROOT / "models" / name / "model.onnx", tmp_path)
    result = mq.quantize(outside, tmp_path / "out.onnx", **options)
    found = result.verification
    assert found is not None and found.codes == len(result.plan.sites) > 3 and not found.quality and not found.samples
    assert any("outputs were not compared, as the model has over 2 GB" in note for note in found.notes)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.data", "in.onnx", "out.onnx", "out.onnx.data"]
    monkeypatch.undo()
    plain = mq.quantize(outside, verify=False, data_free=True, rounding="nearest", **options)
    assert plain.plan.sites == result.plan.sites
    written = onnx.load(tmp_path / "out.onnx")
    held = result.model
    for tensor in (*written.graph.initializer, *held.graph.initializer):
        tensor.ClearField("data_location")
    assert written == held
    feed = feed_for(written)
    np.testing.assert_array_equal(run(plain.model, feed)[0], run(written, feed)[0])


def _outside(path: Path, folder: Path) -> Path:
    onnx.save(onnx.load(path), folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=64)
    return folder / "in.onnx"


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("fused", ["never", "packed"])
def test_wrong_codes_of_a_large_model_are_found(fused: Fused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = _outside(ROOT / "models" / "digits_transformer" / "model.onnx", tmp_path)
    whole = files.save

    def damaged(model: onnx.ModelProto, path: Path, external: bool, name: str) -> list[Path]:
        written = whole(model, path, external, name)
        content = bytearray(written[1].read_bytes())
        largest = max(model.graph.initializer, key=raw_nbytes)
        place = bytes(content).index(bytes(raw_bytes(largest))) + raw_nbytes(largest) // 2
        content[place] ^= 1
        written[1].write_bytes(content)
        return written

    monkeypatch.setattr(files, "save", damaged)
    with pytest.raises(ProofError, match="do not decode to its weights"):
        mq.quantize(outside, tmp_path / "out.onnx", fused=fused)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (3, True), (5, False), (7, True), (8, False)])
def test_weights_too_large_to_be_decoded_at_once_are_decoded_in_slices(
    bits: int, symmetric: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = _outside(ROOT / "models" / "digits_transformer" / "model.onnx", tmp_path)
    monkeypatch.setattr(large, "_MOST_WEIGHTS", 0)
    monkeypatch.setattr(slices, "_AT_ONCE", 1000)
    seen: list[bool] = []
    check = slices.check_by_slices

    def watched(*arguments: Any) -> bool:
        seen.append(check(*arguments))
        return seen[-1]

    monkeypatch.setattr(large, "check_by_slices", watched)
    result = mq.quantize(outside, tmp_path / "out.onnx", bits=[bits], symmetric=symmetric, rule="paper")
    assert len(seen) == len(result.plan.sites) and seen.count(True) > 3
    name = next(n for n, done in zip(result.plan.sites, seen, strict=True) if done)
    codes = result.quantized[name].codes.copy()
    codes[-1, -1] ^= 1
    wrong = replace(result.quantized[name], codes=codes)
    with pytest.raises(ProofError, match="do not decode to its weights"):
        check(result.stored, walk(result.stored)[0], result.rewritten.values[name], name, wrong)


@pytest.mark.usefixtures("all_large")
def test_a_large_model_that_does_not_load_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = _outside(ROOT / "models" / "digits_transformer" / "model.onnx", tmp_path)
    whole = files.save

    def damaged(model: onnx.ModelProto, path: Path, external: bool, name: str) -> list[Path]:
        model.graph.node[-1].op_type = "Nothing"
        return whole(model, path, external, name)

    monkeypatch.setattr(files, "save", damaged)
    with pytest.raises(ProofError, match="does not load the result"):
        mq.quantize(outside, tmp_path / "out.onnx")


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("fused", ["never", "packed"])
def test_a_layer_of_a_large_model_that_computes_something_else_is_found(
    fused: Fused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes are right, but a node reads the wrong value, or has another attribute."""
    model = text(
        """g (float[N,64] x, float[64,64] v, float[64,64] w) => (float[N,64] y) {
          h = MatMul (x, v) y = MatMul (h, w) }""", v=weight(64, 64), w=weight(64, 64, seed=1),
    )  # fmt: skip
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=64)
    whole = files.save

    def damaged(model: onnx.ModelProto, path: Path, external: bool, name: str) -> list[Path]:
        first, second = model.graph.node[-2:]
        for place in range(1, len(first.input)):
            first.input[place], second.input[place] = second.input[place], first.input[place]
        return whole(model, path, external, name)

    monkeypatch.setattr(files, "save", damaged)
    with pytest.raises(ProofError, match=r"computes something else|reads another weight"):
        mq.quantize(tmp_path / "in.onnx", tmp_path / "out.onnx", fused=fused, min_size=1)


@pytest.mark.usefixtures("all_large")
def test_the_size_of_a_large_model_is_kept_without_drafts(tmp_path: Path) -> None:
    outside = _outside(ROOT / "models" / "digits_transformer" / "model.onnx", tmp_path)
    limit = 66_000 + (outside.stat().st_size + (tmp_path / "in.data").stat().st_size) // 4
    result = mq.quantize(outside, tmp_path / "out.onnx", max_size=str(limit))
    assert limit - 80_000 < result.nbytes_after <= limit
    assert result.nbytes_after == sum((tmp_path / name).stat().st_size for name in ("out.onnx", "out.onnx.data"))
