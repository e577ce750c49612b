"""`--table FILE` from end to end: nothing is measured twice, an interrupted run goes on, a wrong file is refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Fails, text, weight

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.planning import search, solved_table, table_file
from mixquant_onnx.planning.sensitivity import reactions

LAYERS = 4


def network(seed: int = 0) -> onnx.ModelProto:
    weights: dict[str, Any] = {f"w{k}": weight(48, 48, seed=k + seed) for k in range(LAYERS)}
    inputs = ", ".join(f"float[48,48] {name}" for name in weights)
    body = " ".join(f"m{k} = MatMul (h{k}, w{k}) h{k + 1} = Relu (m{k})" for k in range(LAYERS))
    return text(f"g (float[N,48] h0, {inputs}) => (float[N,48] h{LAYERS}) {{ {body} }}", **weights)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, h0=weight(96, 48) * 10)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "some.table"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is measured: the errors of a weight, its candidates, or a reaction of the outputs."""
    taken: list[str] = []
    named: tuple[tuple[Any, str, str], ...] = (
        (search, "site_errors", "errors"),
        (solved_table, "solve_widths", "solved"),
        (reactions._Runs, "distances", "reaction"),
    )

    def counted(plain: Callable[..., Any], step: str) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            taken.append(step)
            return plain(*given, **more)

        return run

    for owner, name, step in named:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name), step))
    return taken


def command(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


ALL_STEPS = LAYERS * ["errors"] + LAYERS * ["reaction"] + LAYERS * ["solved"]


def test_what_a_sweep_measured_is_not_measured_again(
    model: Path, data: Path, table: Path, tmp_path: Path, steps: list[str]
) -> None:
    rows, again, output, plain = (tmp_path / name for name in ("rows.csv", "again.csv", "out.onnx", "plain.onnx"))
    fixed = ["--data", data, "--table", table]
    command("sweep", model, "--avg-bits", "3..6:1", *fixed, "--csv", rows)
    assert sorted(steps) == ALL_STEPS
    steps.clear()
    command("sweep", model, "--avg-bits", "3..6:1", *fixed, "--csv", again)
    command("sweep", model, "--avg-bits", "2.5..8", "--qem", "1,2", *fixed)
    command("inspect", model, "--avg-bits", "4", *fixed)
    command(model, output, "--avg-bits", "4", *fixed)
    assert not steps
    assert again.read_bytes() == rows.read_bytes()
    command(model, plain, "--avg-bits", "4", "--data", data)
    assert sorted(steps) == ALL_STEPS
    assert output.read_bytes() == plain.read_bytes()


def test_what_a_run_measured_is_not_measured_again_by_a_sweep(
    model: Path, data: Path, table: Path, steps: list[str]
) -> None:
    kept: dict[str, Any] = {"data": data, "table": table}
    mq.quantize(model, avg_bits=4, **kept)
    steps.clear()
    points = mq.sweep(model, average_bits=[3, 5], **kept)
    assert not steps
    assert points == mq.sweep(model, average_bits=[3, 5], data=data)
    assert sorted(steps) == ALL_STEPS


@pytest.mark.parametrize("stage", ["search", "solve layers", "measure layers", "compare plans", "quantize"])
def test_an_interrupted_run_goes_on_where_it_was(
    stage: str, model: Path, data: Path, table: Path, tmp_path: Path, steps: list[str]
) -> None:
    output, plain = tmp_path / "out.onnx", tmp_path / "plain.onnx"
    mq.quantize(model, plain, data=data, avg_bits=4)
    assert sorted(steps) == ALL_STEPS
    steps.clear()

    def interrupt(found: str, done: int, total: int) -> None:
        if found == stage and done == (2 * 48 * 48 if stage == "search" else 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mq.quantize(model, output, data=data, avg_bits=4, table=table, progress=interrupt)
    assert not output.exists()
    first = list(steps)
    if stage == "solve layers":
        assert first.count("solved") >= 2 > 0 == first.count("reaction")
    steps.clear()
    mq.quantize(model, output, data=data, avg_bits=4, table=table)
    left = {"search": (2, 4, 4), "solve layers": (0, 2, 4), "measure layers": (0, 0, 2)}.get(stage, (0, 0, 0))
    assert tuple(map(steps.count, ("errors", "solved", "reaction"))) == left
    assert output.read_bytes() == plain.read_bytes()


def test_more_effort_measures_what_less_effort_did_not(model: Path, data: Path, table: Path, steps: list[str]) -> None:
    kept: dict[str, Any] = {"data": data, "table": table, "verify": False, "method": "gptq"}
    mq.sweep(model, average_bits=[3.5], effort="normal", **kept)
    steps.clear()
    points = mq.sweep(model, average_bits=[3.5], effort="thorough", **kept)
    assert steps == 2 * LAYERS * ["reaction"]
    assert points == mq.sweep(model, average_bits=[3.5], effort="thorough", **{**kept, "table": None})


CHANGES: dict[str, tuple[str, list[str]]] = {
    "another model": ("another model", []),
    "other data": ("another data", []),
    "no data": ("another data", ["--no-data"]),
    "--bits 4,5": ("another choice of candidates", ["--bits", "4,5"]),
    "--method adaround": ("another choice of candidates", ["--method", "adaround"]),
    "--granularity block:16": ("another choice of candidates", ["--granularity", "block:16"]),
    "--exclude w1": ("another choice of candidates", ["--exclude", "w1"]),
    "--native-types": ("another choice of candidates", ["--native-types"]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("run", ["quantize", "inspect", "sweep"])
def test_a_table_of_something_else_is_refused(
    run: str, change: str, model: Path, data: Path, table: Path, tmp_path: Path, fails: Fails
) -> None:
    command("sweep", model, "--avg-bits", "4", "--no-verify", "--data", data, "--table", table)
    told, options = CHANGES[change]
    if change == "another model":
        onnx.save(network(seed=1), model)
    if change == "other data":
        np.savez(data, h0=weight(96, 48) * 11)
    given = [] if options == ["--no-data"] else ["--data", data, *options]
    paths = [model, tmp_path / "out.onnx"] if run == "quantize" else [model]
    line = fails(5, run, *paths, "--avg-bits", "4", *given, "--table", table)
    assert told in line and str(table) in line and "--table" in line


@pytest.mark.parametrize(
    "content", [b"x", b"text" * 400, b"SQLite format 3\0" + bytes(2000)], ids=["x", "text", "zeros"]
)
def test_a_file_that_is_no_table_is_refused_and_kept(
    content: bytes, model: Path, data: Path, table: Path, fails: Fails
) -> None:
    table.write_bytes(content)
    assert "not a table" in fails(5, "sweep", model, "--avg-bits", "4", "--data", data, "--table", table)
    assert "is an .npz file" in fails(4, "inspect", model, "--data", data, "--table", data)


def test_where_no_table_can_be_is_refused_before_the_model_is_read(
    tmp_path: Path, table: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent.onnx"
    assert "is a folder" in fails(4, "sweep", absent, "--qem", "2", "--table", tmp_path)
    assert "does not exist" in fails(4, "inspect", absent, "--table", tmp_path / "absent" / "table")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is not writable" in fails(4, absent, tmp_path / "out.onnx", "--table", table)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("IN OUT --table IN", "is the model"),
        ("IN OUT --table OUT", "is the output"),
        ("IN OUT --table FILE --json FILE", "--json"),
        ("IN OUT --table FILE --plan FILE", "--plan"),
        ("IN OUT --table FILE --apply FILE", "--apply"),
        ("inspect IN --table IN", "is the model"),
        ("inspect IN --table FILE --plan FILE", "--plan"),
        ("sweep IN --qem 2 --table IN", "is the model"),
        ("sweep IN --qem 2 --table FILE --json FILE", "--json"),
        ("sweep IN --qem 2 --table FILE --csv FILE", "--csv"),
    ],
)
def test_a_table_has_a_file_of_its_own(arguments: str, named: str, model: Path, tmp_path: Path, fails: Fails) -> None:
    paths = {"IN": model, "OUT": tmp_path / "out.onnx", "FILE": tmp_path / "file"}
    line = fails(2, *(paths.get(word, word) for word in arguments.split()))
    assert named in line and "--table" in line


def test_the_table_of_the_python_interface_has_a_file_of_its_own(model: Path, tmp_path: Path) -> None:
    before, output = model.read_bytes(), tmp_path / "out.onnx"
    calls: list[Callable[[], Any]] = [
        lambda: mq.quantize(model, output, table=output),
        lambda: mq.quantize(model, output, table=model),
        lambda: mq.inspect(model, table=model),
        lambda: mq.sweep(model, qems=[2], table=model),
        lambda: mq.apply_plan(model, mq.inspect(model, data_free=True).plan, output, table=output),
    ]
    for call in calls:
        with pytest.raises(mq.OptionError, match="a file of its own"):
            call()
    assert model.read_bytes() == before and not output.exists()


def test_a_table_that_another_process_holds_is_told(
    model: Path, data: Path, table: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_file, "_PATIENCE", 0.1)
    fixed = [model, "--avg-bits", "4", "--no-verify", "--data", data, "--table", table]
    command("sweep", *fixed)
    hold = "import sqlite3, sys; b = sqlite3.connect(sys.argv[1]); b.execute('BEGIN EXCLUSIVE'); print(1); input()"
    held = [sys.executable, "-uc", hold, str(table)]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline()
        assert "locked by another process" in fails(4, "sweep", *fixed)
        other.stdin.write("\n")
    command("sweep", *fixed)


def test_a_table_that_cannot_grow_is_told_and_keeps_what_it_has(
    model: Path, data: Path, table: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk."""
    fixed = [model, "--data", data, "--table", table]
    command("sweep", *fixed, "--avg-bits", "4", "--no-verify", "--cost", "energy")
    plain = sqlite3.connect

    def full(*given: Any, **more: Any) -> sqlite3.Connection:
        base: sqlite3.Connection = plain(*given, **more)
        pages = base.execute("PRAGMA page_count").fetchone()[0]
        base.execute(f"PRAGMA max_page_count = {pages}")
        return base

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", full)
        assert "is full" in fails(4, "sweep", *fixed, "--avg-bits", "4", "--cost", "energy")
    command("sweep", *fixed, "--avg-bits", "4", "--cost", "energy")
