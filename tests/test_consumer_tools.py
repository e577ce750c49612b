"""tools/bench consumers: what becomes of a runtime that fails, ends or answers otherwise. Nothing is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = """
import os
from child import serve

def load(path, rows):
    path = os.path.basename(path)
    if "crash" in path:
        os._exit(3)
    if "refused" in path:
        raise ValueError("first line\\nNode [DequantizeLinear5] is not supported")
    return (lambda: 1 / 0) if "stops" in path else (lambda: rows * (-1 if "wrong" in path else 1))

serve(load, "numpy", lambda path: 200)
"""
NAMES = ("right", "crash", "refused", "wrong", "stops", "last")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One result for each of `NAMES`, at 2 to 7 bits, from a consumer that acts by the file's name."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tools" / "consumer_tools"))
    files, measure = (importlib.import_module(f"consumer_tools.{name}") for name in ("files", "measure"))
    script, rows = tmp_path / "run.py", np.arange(1, 7, dtype=np.float32)
    script.write_text(SCRIPT, encoding="utf8")
    np.save(tmp_path / "rows.npy", rows)
    made = [
        files.File(path=tmp_path / f"{name}.onnx", model="m", form="--target qdq", bits=k + 2, nbytes=100, exact=rows)
        for k, name in enumerate(NAMES)
    ]
    one = importlib.import_module("consumer_tools.catalog").Consumer(name="it", script=str(script), rewrites=True)
    found: list[Any] = measure.measure(one, Path(sys.executable), tmp_path, made, tmp_path / "rows.npy")
    return found


def test_a_process_that_ends_takes_no_other_file_with_it(results: list[Any]) -> None:
    assert [result.file.path.stem for result in results] == list(NAMES)
    failures = {result.file.path.stem: result.failure for result in results}
    assert failures == {
        "right": None, "wrong": None, "last": None,
        "crash": "does not load: the process ended (exit code 3)",
        "refused": "does not load: Node [DequantizeLinearN] is not supported",
        "stops": "does not run: ZeroDivisionError: division by zero",
    }  # fmt: skip
    assert [result.decibels for result in results if result.file.path.stem in ("right", "last")] == [140.0, 140.0]


def test_a_table_shows_wrong_answers_as_wrong(results: list[Any]) -> None:
    shown = importlib.import_module("consumer_tools.report").tables(results)
    row = next(line for line in shown.splitlines() if "`--target qdq` |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")][2:]
    assert cells == ["x2.00, 140 dB", "no", "no", "x2.00, wrong", "no", "x2.00, 140 dB", "-"]
    assert "| it | does not run: ZeroDivisionError: division by zero | `--target qdq`: 6 (m) |" in shown


def test_what_cannot_be_started_is_told_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    files, measure, catalog = (
        importlib.import_module(f"consumer_tools.{name}") for name in ("files", "measure", "catalog")
    )
    np.save(tmp_path / "rows.npy", np.ones(3, np.float32))
    made = [
        files.File(path=tmp_path / f"{k}.onnx", model="m", form="--target ort", bits=2, nbytes=1, exact=np.ones(3))
        for k in range(2)
    ]
    (tmp_path / "run.py").write_text("import not_there", encoding="utf8")
    one = catalog.Consumer(name="it", script=str(tmp_path / "run.py"))
    results = measure.measure(one, Path(sys.executable), tmp_path, made, tmp_path / "rows.npy")
    assert len(results) == 2
    for result in results:
        assert result.failure == "does not start: ModuleNotFoundError: No module named 'not_there'"
