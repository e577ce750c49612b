"""One screen by default, one line with -q, all tables with -v, JSON alone with --json -."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import text, weight
from onnx import ModelProto
from rich.console import Console

from mixquant_onnx.cli.main import main
from mixquant_onnx.report.formats import WholeConsole, print_rest, shortened, size
from mixquant_onnx.report.sections import left_float


def chain(count: int = 8) -> ModelProto:
    declared = ", ".join(f"float[64,64] encoder_layers_{k}_attention_output_dense_weight" for k in range(count))
    nodes = " ".join(
        f"v{k + 1} = MatMul (v{k}, encoder_layers_{k}_attention_output_dense_weight)" for k in range(count)
    )
    weights = {f"encoder_layers_{k}_attention_output_dense_weight": weight(64, 64, seed=k) for k in range(count)}
    return text(f"g (float[N,64] v0, {declared}) => (float[N,64] v{count}) {{ {nodes} }}", 17, 8, "", **weights)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    onnx.save(chain(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", v0=np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32))
    return [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--data", str(tmp_path / "d.npz"), "--bits", "4"]


def test_one_screen_by_default(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    out = capsys.readouterr().out
    assert out.startswith("132.2 kB -> ") and "bits a weight (8 at 4)" in out and "quality: " in out
    assert len(out.splitlines()) <= 24 and "… and 3 more tensors" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("wrote"))


def test_names_are_cut_where_they_are_equal(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "w4.channel" in line]
    assert len(rows) == len(set(rows)) == 5 and all("…" in name for name in rows)


def test_all_tables_on_demand(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "-v"]) == 0
    out = capsys.readouterr().out
    assert "profile" in out and "deployed" in out and "more tensors" not in out


@pytest.mark.parametrize("command", ["quantize", "inspect"])
def test_all_rows_on_demand(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    onnx.save(chain(14), tmp_path / "m.onnx")
    given = [command, str(tmp_path / "m.onnx"), *([str(tmp_path / "o.onnx")] * (command == "quantize"))]
    assert main([*given, "--bits", "4", "--data-free"]) == 0
    out = capsys.readouterr().out
    assert ("and 9 more tensors" if command == "quantize" else "and 2 more tensors") in out
    assert main([*given, "--bits", "4", "--data-free", "-v"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"w4\.channel ", out)) == 14 and "… and" not in out


def test_all_tensors_left_as_float_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"encoder.layers.{k}.attention.output.LayerNorm.bias[{k}]" for k in range(14)]
    skipped = [left_float.SkippedTensor(name=name, reason=f"reason {k}", nbytes=9) for k, name in enumerate(names)]
    data: left_float.LeftFloat = {"skipped": skipped, "left_float": {"nbytes": 126, "share": 0.009}}
    left_float.render(Console(width=80), data)
    out = capsys.readouterr().out
    assert names[0] not in out and "and 2 more reasons" in out and "0.9% of the input's bytes" in out
    left_float.render(WholeConsole(width=120), data)
    out = capsys.readouterr().out
    assert all(name in out for name in names) and "more" not in out and "14 tensors left as float" in out


def test_one_tensor_is_no_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = "g (float[N,64] x, float[64,64] u, float[1,64] s) => (float[N,64] y)"
    nodes = "{ h = Add (x, s) k = MatMul (h, u) y = Add (k, s) }"
    onnx.save(text(f"{graph} {nodes}", u=weight(64, 64), s=weight(1, 64)), tmp_path / "m.onnx")
    given = [str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--data-free", "--min-size", "64"]
    assert main([*given, "--bits", "4", "--report", str(tmp_path / "r.html")]) == 0
    out = capsys.readouterr().out
    assert "1 weight tensor, " in out
    assert re.search(r"left as float: \d.\d% of the input's bytes \(why: -v, 1 tensor\)", out)
    assert "% of the input&#39;s bytes. Small tensors, which" in (tmp_path / "r.html").read_text("utf8")
    print_rest(Console(), 13, "tensor")
    assert "and 1 more tensor (" in capsys.readouterr().out


def test_an_inspection_tells_the_size_that_a_run_writes(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output, *given = files
    assert main([source, output, *given]) == 0
    capsys.readouterr()
    told, whole = (Path(path).stat().st_size for path in (output, source))
    assert main(["inspect", source, *given]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"expected size: about {size(told)} ({told / whole:.1%} of the input)\n")
    assert main(["inspect", source, *given, "-q"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["inspect", source, *given, "--json", "-"]) == 0
    assert "nbytes_before" in json.loads(capsys.readouterr().out)


def test_one_line_on_demand(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "-q", "--benchmark"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and " dB, " in out and "of float's time; " in out and out.endswith("o.onnx\n")


def test_the_line_says_on_which_rows(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--method", "mse", "--rounding", "nearest", "-q"]) == 0
    assert ", on 8 rows of your data; " in capsys.readouterr().out
    assert main([*files[:2], "--data-free", "--bits", "4", "-q"]) == 0
    assert ", on 4 rows of noise; " in capsys.readouterr().out
    np.savez(files[3], v0=np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32))
    assert main([*files, "--method", "gptq", "-q"]) == 0
    assert ", on 4 rows of your data, in-sample; " in capsys.readouterr().out
    assert main([*files[:2], "--no-verify", "-q"]) == 0
    assert "; not verified; " in capsys.readouterr().out


def test_warnings_are_on_stderr_where_there_is_no_report(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = [*files[:4], "--bits", "2"]
    assert main(given) == 0
    printed = capsys.readouterr()
    assert "warning: " in printed.out and "warning: " not in printed.err
    for option in (["-q"], ["--json", "-"], ["-q", "--json", "-"]):
        assert main([*given, *option]) == 0
        printed = capsys.readouterr()
        assert printed.err.count("mixquant-onnx: warning: quality is at risk") == 1
        assert "warning: " not in printed.out


def test_json_alone_on_standard_output(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == {"4": 8}
    assert main([*files[:2], *files[2:4], "--min-sqnr", "10", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["verification"]["codes"] == 8
    assert not Path("-").exists()


def test_an_unverified_run_says_so(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def test_colours_are_for_terminals(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "width", "cut"),
    [
        (["a.b.c"], 5, ["a.b.c"]), (["block.1.weight", "block.2.weight"], 10, ["blo…weight", "blo…weight"]),
        (["same.start.1", "same.start.2"], 8, ["sa…art.1", "sa…art.2"]),
        (["1.same.ending", "2.same.ending"], 8, ["1.…nding", "2.…nding"]),
    ],
)  # fmt: skip
def test_shortened_names(names: list[str], width: int, cut: list[str]) -> None:
    found = shortened(names, width)
    assert all(len(name) <= width for name in found)
    if names[0].startswith("block"):
        assert len(set(found)) == 2
    else:
        assert found == cut
