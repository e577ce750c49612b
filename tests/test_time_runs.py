"""tools/bench time: whole processes are measured, and what a metric takes is taken off."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import classifier
from conftest import ROOT

# Half a second each and 300 MB, more than the command takes of its own on so small a model.
METRIC = """
import json, time
held = b"1" * 300_000_000
while time.process_time() < 0.5: pass
print(json.dumps({"value": 0.5}))
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "magika"
    folder.mkdir(parents=True)
    onnx.save(classifier(), folder / "model.onnx")
    rows = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    np.savez(folder / "calib.npz", allow_pickle=False, x=rows)
    (tmp_path / "data" / "evaluate.py").write_text(METRIC)
    return tmp_path / "data"


def rows_of(bench: Any, capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, str]]:
    """The rows of the table that the command prints."""
    named = bench("benchmarks.main")
    given = ["time", *map(str, arguments)]
    assert bench("benchmarks.command").run("x", "benchmarks", named.NAMES, "", given, modules=named.MODULES) == 0
    text = capsys.readouterr().out
    assert bench("benchmarks.timing").versions() in text
    header, _, *rows = [[c.strip() for c in li.split("|")[1:-1]] for li in text.splitlines() if li.startswith("|")]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.slow
def test_a_run_is_measured_without_its_metric(bench: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, promise = rows_of(bench, capsys, "--data-root", root, "--promise")
    assert [plain["model"], plain["command"], promise["command"]] == ["magika", "`--avg-bits 4`", "`--max-drop 1%`"]
    metric = float(promise["metric's CPU s"])
    assert metric > 1 and plain["metric's CPU s"] == "-"
    assert float(promise["CPU s"]) - float(plain["CPU s"]) < metric / 2
    for row in (plain, promise):
        assert 0.2 < float(row["CPU s"]) < 20 and float(row["wall s"]) > 0.2
        assert 30 < float(row["peak MB"]) < 300
    assert [plain["CPU s limit"], promise["CPU s limit"], plain["peak MB limit"]] == ["20", "-", "1000"]


def test_two_commits_take_turns_and_medians_are_shown(
    bench: Any, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = bench("benchmarks.time_runs")
    taken = iter([tool.Taken(cpu=c, wall=1, peak=2e9) for c in (30, 10, 12, 24, 24, 18)])
    ran: list[str] = []

    def measure(*given: Any) -> Any:
        ran.append(given[4].name)
        return next(taken)

    monkeypatch.setattr(tool, "measure", measure)
    monkeypatch.setattr(tool, "checkouts", lambda against: tool.contextlib.nullcontext([Path("a"), Path("b")]))
    (row,) = rows_of(bench, capsys, "--data-root", root, "--against", "HEAD", "--rounds", 3)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert [row["CPU s"], row["CPU s, HEAD"], row["CPU s ratio"]] == ["24.0 over", "12.0", "2.00"]
    assert row["peak MB"] == "2000 over"


def test_a_command_that_fails_shows_why(bench: Any, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows_of(bench, capsys, "--data-root", root, "--options", "--method none")
    assert row["CPU s"].startswith("exit 2: mixquant-onnx: ") and row["wall s"] == row["peak MB"] == "-"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_other_commit_is_checked_out_and_removed(bench: Any) -> None:
    with bench("benchmarks.time_runs").checkouts("HEAD") as (here, other):
        assert here == ROOT and other != ROOT
        command = [sys.executable, "-c", "import mixquant_onnx; print(mixquant_onnx.__file__)"]
        done = subprocess.run(command, cwd=other, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()).resolve().is_relative_to(other.resolve())
    listed = subprocess.run(["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True, check=True)
    assert not other.exists() and str(other) not in listed.stdout
