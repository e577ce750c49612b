"""What is refused says what is at fault, with the exit code of its kind, and leaves no file behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Fails, classifier, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.accuracy.gates import check_chance
from mixquant_onnx.cli import main as command
from mixquant_onnx.data.dataset import Data, undivided
from mixquant_onnx.errors import DataError, ModelError, OptionError, OutputError, ProofError, check_folder
from mixquant_onnx.runtime.session import RuntimeFailure
from mixquant_onnx.verification import benchmark, comparison
from mixquant_onnx.verification.latency import Latency


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--jobs", "0"), "--jobs 0 does no work"),
        (("--exact", "--target", "qdq"), "--exact belongs to --target ort"),
        (("--blocks",), "--blocks belongs to inspect"),
    ],
)
def test_options_that_have_no_sense(
    options: tuple[str, ...], told: str, model: Path, output: Path, fails: Fails
) -> None:
    assert told in fails(OptionError.exit_code, model, output, *options)


@pytest.mark.parametrize("goal", [("--max-size", "50%"), ("--avg-bits", "4"), ("--min-sqnr", "20")])
def test_a_plan_is_not_replayed_towards_a_goal(
    goal: tuple[str, str], model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    plan = tmp_path / "plan.json"
    assert command.main(["inspect", str(model), "--plan", str(plan)]) == 0
    assert "--apply replays a plan as it is" in fails(OptionError.exit_code, model, output, "--apply", plan, *goal)


def test_a_file_of_options_that_is_no_table(
    model: Path, output: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[[tool.mixquant]]\nqem = 4\n")
    assert "[tool.mixquant] is no table of options" in fails(OptionError.exit_code, model, output)


def test_too_little_memory_is_told_in_one_line(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: list[str]) -> int:
        raise MemoryError

    monkeypatch.setitem(command.COMMANDS, "quantize", full)
    assert "not enough memory for this model" in fails(1, model, output)


def test_options_may_stand_before_the_name_of_a_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["inspect", "--qem", "8", str(model)]) == 0
    after = capsys.readouterr().out
    assert command.main(["--qem", "8", "inspect", str(model)]) == 0
    assert capsys.readouterr().out == after


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match="is not writable"):
        check_folder(tmp_path / "new")


def _stored(change: str) -> ModelProto:
    model = classifier()
    tensor = model.graph.initializer[0]
    if change == "cut":
        tensor.raw_data = tensor.raw_data[:-4]
    elif change == "unknown":
        tensor.data_type = 99
    return model


@pytest.mark.parametrize(
    ("change", "told"), [("cut", "'v' is cut short"), ("unknown", "'v' is of a type that this onnx does not know")]
)
def test_a_stored_tensor_that_is_damaged(change: str, told: str, tmp_path: Path, output: Path, fails: Fails) -> None:
    onnx.save(_stored(change), tmp_path / "damaged.onnx")
    assert told in fails(ModelError.exit_code, tmp_path / "damaged.onnx", output)


def test_a_file_that_cannot_be_read(model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ModelError, match="Permission denied; check its permissions"):
        mq.quantize(model, output)


def test_what_is_no_model() -> None:
    with pytest.raises(ModelError, match="a dict is not a model"):
        mq.quantize({})


def _rows(count: int = 32) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)}


def test_data_without_a_feed() -> None:
    with pytest.raises(DataError, match="holds no feed"):
        mq.quantize(classifier(), data=[])


def test_labels_of_another_number_than_the_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.zeros(31, np.int64))
    with pytest.raises(DataError, match="31 labels for 32 rows"):
        mq.compare(classifier(), classifier(), data=_rows(), labels=tmp_path / "y.npy", benchmark=False)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".txt"])
@pytest.mark.parametrize("shape", [(32,), (32, 1)])
def test_labels_are_read_from_each_kind_of_file(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    model, rows, path = classifier(), _rows(), tmp_path / f"y{suffix}"
    own = run(model, rows)[0].argmax(axis=1)
    values = np.where(np.arange(32) < 8, (own + 1) % 10, own).reshape(shape)
    if suffix == ".npz":
        np.savez(path, allow_pickle=False, labels=values)
    elif suffix == ".npy":
        np.save(path, values)
    else:
        np.savetxt(path, values, fmt="%d")
    found = mq.compare(model, model, data=rows, labels=path, benchmark=False)
    assert found.float_accuracy is not None and found.float_accuracy.value == 24 / 32


def _reshaped(rows: int) -> ModelProto:
    """One that loads with any batch, but runs with `rows` rows only."""
    return text(
        f"""g (float[N,64] x, float[64,64] v, float[64,10] w) => (float[N,10] y)
        {{ h = MatMul (x, v) s = Constant <value_ints=[{rows}, 64]> () r = Reshape (h, s) y = MatMul (r, w) }}""",
        v=weight(64, 64), w=weight(64, 10),
    )  # fmt: skip


def test_a_second_model_that_does_not_run() -> None:
    with pytest.raises(ProofError, match="the second model does not run on this data"):
        mq.compare(classifier(), _reshaped(7), data=_rows(), benchmark=False)


def test_a_first_model_that_does_not_load_or_run() -> None:
    unknown = classifier()
    unknown.graph.node[0].op_type = "Unknown"
    for data in (_rows(), None):
        with pytest.raises(ModelError, match=r"the first model does not load|is not valid ONNX \(No Op registered"):
            mq.compare(unknown, classifier(), data=data, benchmark=False)
    with pytest.raises(DataError, match="no input is known that the first model runs on; give --data"):
        mq.compare(_reshaped(1013), _reshaped(1013), benchmark=False)


def test_outputs_that_are_noise_pass_no_limit() -> None:
    first = text("g (float[N,64] x, float[64,1] w) => (float[N,1] y) { y = MatMul (x, w) }", w=weight(64, 1))
    second = text("g (float[N,64] x, float[64,1] w) => (float[N,1] y) { y = MatMul (x, w) }", w=-weight(64, 1))
    with pytest.raises(ProofError, match=r"nothing to do with the first one's \(-6\.0 dB\)"):
        check_chance(mq.compare(first, second, data=_rows(), benchmark=False))


def _no_time(*_: Any) -> Latency:
    raise RuntimeFailure("no kernel")


def test_a_time_that_cannot_be_measured_is_an_error_where_it_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    split = undivided(Data(feeds=(_rows(1),), labels=None))
    with pytest.raises(DataError, match="--max-ms needs an input that this model runs on"):
        benchmark.check_time("1x", classifier(), classifier(), None)
    monkeypatch.setattr(benchmark, "latency", _no_time)
    with pytest.raises(DataError, match=r"--max-ms cannot be measured.*no kernel"):
        benchmark.check_time("1x", classifier(), classifier(), split)
    found = benchmark.benchmark(classifier(), classifier(), split)
    assert found.notes == ("no times: a model does not run here (no kernel)",) and not found.times


def test_values_inside_that_cannot_be_compared_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def compared() -> tuple[str, ...]:
        return mq.compare(classifier(), classifier(), data=_rows(), benchmark=False).notes

    assert not compared()
    monkeypatch.setattr(comparison, "layer_differences", lambda *_: ())
    assert compared() == ("values inside were not compared: the models have none by the same name",)
    monkeypatch.setattr(comparison, "layer_differences", _no_time)
    assert compared() == ("values inside were not compared: no kernel",)


def test_no_file_of_another_kind_is_overwritten(model: Path, output: Path, tmp_path: Path, fails: Fails) -> None:
    rows, notes = tmp_path / "calib.npz", tmp_path / "notes.txt"
    np.savez(rows, x=np.zeros((4, 64), np.float32))
    notes.write_text("mine")
    assert "is an .npz file (rows go to --data)" in fails(4, model, rows, "--data-free")
    assert "is no ONNX model" in fails(4, model, notes, "--data-free")
    with pytest.raises(OutputError, match="rows go to --data"):
        mq.quantize(model, rows, data_free=True)
    with pytest.raises(OutputError, match="is no ONNX model"):
        mq.quantize(model, notes, data_free=True)
    for option in ("--json", "--plan"):
        assert "is an ONNX model" in fails(4, model, output, "--data-free", option, model)
        assert "is an .npz file" in fails(4, "inspect", model, "--data-free", option, rows)
    assert "is an ONNX model" in fails(4, "sweep", model, "--qem", "2", "--data-free", "--csv", model)
    assert "is an ONNX model" in fails(4, "compare", model, model, "--json", model)


def test_models_and_empty_files_are_overwritten(model: Path, output: Path) -> None:
    output.touch()
    for _ in range(2):
        assert command.main([str(model), str(output), "--data-free"]) == 0
        assert onnx.load(output).graph.node
