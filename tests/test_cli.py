"""The command: what it writes, what it refuses and how, and that a refusal leaves everything as it was."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from cases import Fails, agreement, classifier, files_under, float_tensors, weight

import mixquant_onnx
from mixquant_onnx import pipeline
from mixquant_onnx.cli.main import main
from mixquant_onnx.model import files as model_io


def test_the_command_line_is_loaded_without_heavy_libraries() -> None:
    script = "import sys, mixquant_onnx.cli.main; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "mixquant_onnx" in loaded
    assert not {"onnx", "numpy", "onnxruntime", "onnx_graphsurgeon", "rich", "google"} & set(loaded)


@pytest.mark.parametrize(("flag", "text"), [("--help", "inspect"), ("--version", mixquant_onnx.__version__)])
def test_help_and_version_are_printed_without_a_model(flag: str, text: str) -> None:
    done = subprocess.run([sys.executable, "-m", "mixquant_onnx", flag], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and text in done.stdout and not done.stderr


def test_a_model_is_quantized_and_what_was_done_is_told(
    model: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model), str(output), "--bits", "8"]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    assert "codes of 2 tensors decode exactly" in printed.out and "wrote" in printed.out
    assert not float_tensors(onnx.load(output))
    assert agreement(classifier(), str(output)) > 35
    assert set(files_under(output.parent)) == {model, output}


def test_the_summary_is_written_as_json(model: Path, output: Path, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    assert main([str(model), str(output), "--json", str(file), "--bits", "4-6", "--exclude", "second"]) == 0
    summary = json.loads(file.read_text(encoding="utf8"))
    (tensor,) = summary["tensors"]
    assert tensor["name"] == "v" and tensor["shape"] == [64, 64] and tensor["nodes"] == ["first"]
    assert tensor["scheme"] == f"w{tensor['bits']}.channel.minmax" and tensor["bits"] in (4, 5, 6)
    assert list(tensor["qe_by_bits"]) == ["4", "5", "6"]
    assert summary["skipped"] == [{"name": "w", "reason": "excluded", "nbytes": 64 * 10 * 4}]
    assert summary["left_float"] == {"nbytes": 2560, "share": 2560 / summary["nbytes_before"]}
    assert summary["bits"] == {str(tensor["bits"]): 1} and summary["weights"] == 64 * 64
    assert summary["average_bits"] == 8 * tensor["nbytes"] / (64 * 64)
    assert summary["nbytes_before"] == model.stat().st_size
    assert summary["nbytes_after"] == output.stat().st_size
    assert summary["files"] == [str(output)]
    assert summary["settings"]["bits"] == [4, 5, 6] and summary["settings"]["qem"] == 2.0
    assert summary["versions"]["mixquant_onnx"] == mixquant_onnx.__version__
    assert summary["verification"]["codes"] == 1
    assert [q["profile"] for q in summary["verification"]["quality"]] == ["exact", "deployed"]


def test_inspect_writes_nothing_but_what_is_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_under(tmp_path)
    assert main(["inspect", str(model)]) == 0
    assert files_under(tmp_path) == before
    assert "2 weight tensors" in capsys.readouterr().out
    assert main(["inspect", str(model), "--json", str(tmp_path / "plan.json")]) == 0
    summary = json.loads((tmp_path / "plan.json").read_text())
    assert [tensor["name"] for tensor in summary["tensors"]] == ["v", "w"]
    assert "verification" not in summary


def test_no_verify_writes_without_proof(model: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), str(output), "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out
    assert not float_tensors(onnx.load(output))


def test_the_same_command_writes_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert main([str(model), str(tmp_path / name)]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--bits 9", "--bits"),
        ("--bits 1-4", "--bits"),
        ("--bits 8-2", "--bits"),
        ("--bits four", "'four'"),
        ("--qem 0", "--qem"),
        ("--qem -1", "--qem"),
        ("--qem nan", "--qem"),
        ("--qem inf", "--qem"),
        ("--qem abc", "--qem"),
        ("--method best", "'best'"),
        ("--granularity block:x", "'block:x'"),
        ("--granularity block:1", "'block:1'"),
        ("--granularity row", "'row'"),
        ("--min-size 0", "--min-size"),
        ("--min-size many", "--min-size"),
        ("--target tpu", "--target"),
        ("--baseline int4", "--baseline"),
        ("--rounding up", "--rounding"),
        ("--min-ort new", "'new'"),
        ("--min-ort 1.2", "--min-ort"),
        ("--native-types --bits 3,5", "--native-types"),
        ("--labels here.npy", "--data"),
        ("--include nothing*", "'nothing*'"),
        ("--exclude nothing*", "'nothing*'"),
        ("--colour red", "--colour"),
        ("third.onnx", "2 file names"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    options: str, named: str, model: Path, output: Path, fails: Fails
) -> None:
    assert named in fails(2, model, output, *options.split())


@pytest.mark.parametrize("arguments", [["model.onnx"], ["inspect"], ["inspect", "a.onnx", "b.onnx"]])
def test_a_wrong_number_of_files_is_refused(arguments: list[str], fails: Fails) -> None:
    assert "--help" in fails(2, *arguments)


def test_a_missing_model_is_named(tmp_path: Path, output: Path, fails: Fails) -> None:
    assert "absent.onnx: no such file" in fails(3, tmp_path / "absent.onnx", output)
    assert "is a folder" in fails(3, tmp_path, output)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(share: float, model: Path, output: Path, fails: Fails) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: int(len(whole) * share)])
    assert "export or copy it again" in fails(3, model, output)


@pytest.mark.parametrize("content", [b"hello, world\n", b"\x00" * 1000, b"PK\x03\x04 not a model", b"\n\x05"])
def test_a_file_of_another_kind_is_refused(content: bytes, model: Path, output: Path, fails: Fails) -> None:
    model.write_bytes(content)
    assert "export or copy it again" in fails(3, model, output)


@pytest.mark.parametrize("left", [None, 100])
def test_external_data_that_is_missing_or_short_is_named(
    left: int | None, tmp_path: Path, output: Path, fails: Fails
) -> None:
    path, data = tmp_path / "large.onnx", tmp_path / "large.bin"
    onnx.save(classifier(), path, save_as_external_data=True, location=data.name, size_threshold=16)
    if left is None:
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:left])
    line = fails(3, path, output)
    assert "large.onnx" in line and (left is not None or "'large.bin' is missing" in line)


@pytest.mark.parametrize("option", ["", "--json", "--plan"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    option: str, model: Path, output: Path, tmp_path: Path, fails: Fails
) -> None:
    for path, reason in ((tmp_path / "absent" / "file", "does not exist"), (tmp_path, "is a folder")):
        arguments = [output, option, path] if option else [path]
        assert reason in fails(4, model, *arguments)


def test_a_folder_without_permission_is_refused(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable" in fails(4, model, output)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_full_disk_is_told_and_leaves_nothing(
    step: str, model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, step, full_disk)
    assert "No space left on device" in fails(4, model, output)


def test_a_folder_that_refuses_a_new_file_is_told(
    model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full_disk)
    assert "No space left on device" in fails(4, model, output)


def test_nothing_to_quantize_is_told_with_the_reason(model: Path, output: Path, fails: Fails) -> None:
    assert "nothing was quantized" in fails(7, model, output, "--min-size", 100000)
    assert "excluded" in fails(7, model, output, "--exclude", "*")


def test_nothing_to_quantize_is_a_copy_when_allowed(model: Path, output: Path) -> None:
    assert main([str(model), str(output), "--min-size", "100000", "--allow-unchanged"]) == 0
    assert onnx.load(output) == classifier()


def test_an_interrupt_leaves_nothing(
    model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_io, "load", interrupted)
    before = files_under(tmp_path)
    assert main([str(model), str(output)]) == 130
    assert files_under(tmp_path) == before
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "verify", interrupted)
    assert main([str(model), str(output)]) == 130
    assert files_under(tmp_path) == before and list(tmp_path.iterdir()) == [model]
    assert "interrupted" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(model: Path, output: Path) -> None:
    with pytest.raises(mixquant_onnx.ModelError):
        main([str(model.with_name("absent.onnx")), str(output), "--debug"])


def test_an_existing_output_survives_a_failure(model: Path, output: Path, fails: Fails) -> None:
    output.write_bytes(b"\x08precious")
    fails(7, model, output, "--exclude", "*")
    assert output.read_bytes() == b"\x08precious"
    assert main([str(model), str(output)]) == 0
    assert not float_tensors(onnx.load(output)) and weight(64, 64).nbytes > output.stat().st_size


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--bitz", "4"), "unrecognized arguments: --bitz 4 (did you mean --bits?); see mixquant-onnx --help"),
        (("--min-sqrn=4",), "(did you mean --min-sqnr?)"), (("--zzzzzz",), "--zzzzzz; see mixquant-onnx --help"),
    ],
)  # fmt: skip
def test_an_unknown_option_names_the_nearest(
    words: tuple[str, ...], told: str, model: Path, output: Path, fails: Fails
) -> None:
    assert told in fails(2, model, output, *words)


def test_a_command_with_a_typing_error_names_the_nearest(model: Path, output: Path, fails: Fails) -> None:
    line = fails(2, "quantise", model, output)
    assert "'quantise' is no file and no command (did you mean quantize?); the commands are quantize, inspect," in line
    assert "3 given" in fails(2, "zebra", model, output)


def test_without_arguments_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: mixquant-onnx [quantize] IN.onnx OUT.onnx [options]\n")
    assert told.endswith("mixquant-onnx: 2 file names expected, 0 given; see mixquant-onnx --help\n")
