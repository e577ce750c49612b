"""tools/reliability: its fast form finds nothing wrong, and it does find what is wrong where something is."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import classifier
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.numerics.scheme import QuantizedTensor

FAST = ("generated", "mutants", "external", "files", "corpus")
"""Parts whose fast form runs with the fast tests; what starts processes of its own is slower."""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of the harness by name."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return lambda name: importlib.import_module(f"reliability_checks.{name}")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "reliability_checks" / "main.py"
    run = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=False, cwd=ROOT)


def test_nothing_is_wrong_in_the_fast_form(tmp_path: Path) -> None:
    done = command(*FAST, "--fast", "--json", tmp_path / "counts.json")
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {one["part"]: one for one in json.loads((tmp_path / "counts.json").read_text())}
    assert set(counts) == set(FAST)
    assert counts["generated"]["cases"] >= 100 and counts["mutants"]["cases"] >= 200 and counts["files"]["cases"] > 30
    written = {
        part: sum(n for outcome, n in one["outcomes"].items() if "written" in outcome) for part, one in counts.items()
    }
    assert written["generated"] > 30 and written["mutants"] > 20 and written["external"] >= 4


@pytest.mark.slow
@pytest.mark.parametrize("part", ["faults", "determinism", "fuzz"])
def test_nothing_is_wrong_in_the_fast_form_of_slow_parts(part: str, tmp_path: Path) -> None:
    """The long form of all parts takes hours: `tools/reliability`, whose counts are in docs/reliability.md."""
    done = command(part, "--fast", "--json", tmp_path / "counts.json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_part_that_is_not_known_is_refused() -> None:
    done = command("nothing")
    assert done.returncode == 2 and "name one part of generated, mutants" in done.stderr


def _check(case: str, folder: Path) -> list[Any]:
    verdict = importlib.import_module("reliability_checks.verdict")
    if case == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "hangs":
        time.sleep(60)
    if case == "fails":
        raise ValueError("of the check")
    return [verdict.Verdict(case=case, outcome="fine")]


def test_a_case_that_dies_or_hangs_is_counted_and_others_go_on(tool: Any, tmp_path: Path) -> None:
    cases = ["one", "dies", "two", "hangs", "fails", "three"]
    part = tool("verdict").Part(name="trial", title="", cases=lambda fast: cases, check=_check, limit=2)
    found = tool("main").tally(part, True, 2, tmp_path)
    kinds = {case: failure.kind for case, failure in found.failures}
    assert found.tried == 6 and kinds == {"dies": "crash", "hangs": "hang", "fails": "crash"}
    assert found.outcomes == {"fine": 3, "SIGSEGV": 1, "hang": 1, "failed": 1}
    again = tool("main").tally(part, True, 2, tmp_path)
    assert again.outcomes == found.outcomes and sorted(again.failures, key=str) == sorted(found.failures, key=str)
    shown = tool("table").counts([found])
    assert "| trial | 6 | 2 | 1 | 0 | 0 |" in shown
    assert json.loads(tool("table").as_json([found]))[0]["failures"][0]["case"] in kinds


def test_errors_that_are_not_one_documented_line_are_crashes(tool: Any) -> None:
    ended = tool("command").Ended
    assert not ended(code=3, told="mixquant-onnx: a line\n").failures()
    assert not ended(code=0, told="a note\n").failures()
    for code, told in ((3, "a line\n"), (3, "mixquant-onnx: two\nlines\n"), (77, "mixquant-onnx: a line\n"),
                       (1, "Traceback (most recent call last):\nValueError: x\n"), (-11, "")):  # fmt: skip
        assert [failure.kind for failure in ended(code=code, told=told).failures()] == ["crash"], told


def test_files_that_change_or_are_left_are_lost(tool: Any, tmp_path: Path) -> None:
    module = tool("command")
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    before = module.contents(tmp_path)
    (tmp_path / "a").write_text("2")
    (tmp_path / "b").unlink()
    (tmp_path / "c").touch()
    (tmp_path / "d").touch()
    found = module.changed(before, module.contents(tmp_path), ["d"])
    assert [one.detail for one in found] == ["'a' is changed or gone", "'b' is changed or gone", "'c' is left behind"]


@pytest.mark.parametrize("change", ["a code", "a scale", "the file", "an axis"])
def test_a_wrong_result_is_found(change: str, tool: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(classifier(), source)
    result = mq.quantize(source, output, data_free=True, bits=[4])
    disagreement = tool("reference").disagreement
    assert disagreement(source, result) == ("compared", None)
    q = result.quantized["v"]
    if change == "the file":
        model = onnx.load(output)
        model.graph.node[-1].input[0] = "not there"
        onnx.save(model, output)
    else:
        assert isinstance(q, QuantizedTensor)
        if change == "a code":
            q.codes[5, 5] ^= 8
        elif change == "a scale":
            q.scale.reshape(-1)[3] *= 1.01
        else:
            q.codes[:] = q.codes.T.copy()
    what, wrong = disagreement(source, result)
    assert wrong is not None and ("dB against" in wrong or "does not load" in wrong or "farther" in wrong), what


def test_what_codes_mean_is_computed_apart_from_the_package(tool: Any) -> None:
    encodings = importlib.import_module("cases")
    for name, (layout, shape) in encodings.LAYOUTS.items():
        for grid in ("tensor", "channel", "block:8"):
            granularity = importlib.import_module("mixquant_onnx.numerics.granularity").Granularity.parse(grid)
            q = encodings.quantized(shape, layout, 5, granularity)
            own = q.dequantize(np.dtype(np.float32))
            np.testing.assert_array_equal(tool("reference").values_of(q), own, err_msg=f"{name} {grid}")


def test_the_page_keeps_the_counts_of_other_parts(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tool("table")
    page = tmp_path / "page.md"
    marks = [mark for pair in module.MARKS.values() for mark in pair]
    page.write_text("# Title\n\n" + "\n".join(marks) + "\nend\n")
    monkeypatch.setattr(module, "PAGE", page)
    tally, verdict = tool("verdict").Tally, tool("verdict").Verdict
    for part in ("first", "second", "first"):
        found = tally(part=part)
        found.add(verdict(case="x", outcome=f"fine {part}"))
        module.write([found])
    text = page.read_text()
    assert text.count("| first | 1 |") == text.count("| second | 1 |") == text.count("| first | fine first | 1 |") == 1
    assert text.startswith("# Title\n") and text.endswith("end\n") and "processors, Python" in text
