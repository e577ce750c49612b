"""mixquant-onnx diff: what differs between two plans."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mixquant_onnx.cli.main import main
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.plan import Plan


def write(path: Path, sites: dict[str, str], **settings: object) -> str:
    plan = Plan(sites={name: Scheme.parse(text) for name, text in sites.items()}, settings=settings)
    path.write_text(json.dumps(plan.to_json()))
    return str(path)


def test_changed_weights_and_settings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", {"u": "w4.channel.mse", "v": "w5.channel.mse", "w": "w3.channel.mse"}, qem=2)
    second = write(tmp_path / "b", {"u": "w4.channel.mse", "v": "w6.channel.mse", "x": "w8.channel.mse"}, qem=4)
    assert main(["diff", first, second]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "qem: 2 -> 4", "v: w5.channel.mse -> w6.channel.mse", "x: float -> w8.channel.mse",
        "w: w3.channel.mse -> float",
    ]  # fmt: skip
    assert main(["diff", first, first]) == 0 and capsys.readouterr().out == ""


def test_plans_of_different_models_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "a", {"u": "w4.channel.mse"})
    second = write(tmp_path / "b", {"v": "w4.channel.mse"})
    assert main(["diff", first, second]) == 1
    assert capsys.readouterr().out.startswith("the plans are of different models: they share no weight\n")
    skipping = Plan(sites={"v": Scheme.parse("w4.channel.mse")}, skipped={"u": "excluded"})
    (tmp_path / "c").write_text(json.dumps(skipping.to_json()))
    for one, other in ((first, str(tmp_path / "c")), (str(tmp_path / "c"), first)):
        assert main(["diff", one, other]) == 1 and "different models" not in capsys.readouterr().out


def test_who_reads_the_first_line_gets_no_traceback(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {f"w{k}": "w4.channel.mse" for k in range(20_000)})
    second = write(tmp_path / "b", {f"w{k}": "w5.channel.mse" for k in range(20_000)})
    command = [sys.executable, "-m", "mixquant_onnx.cli.main", "diff", first, second]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"w0: w4.channel.mse -> w5.channel.mse\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("{}")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "a")]) == 5
    assert "not a plan" in capsys.readouterr().err
    assert main(["diff", str(tmp_path / "a")]) == 2
