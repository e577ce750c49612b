"""tools/pythons: what it counts, and the rows that it keeps."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from newer_runtime import NEEDED, reason_to_skip

REPORT = """<testsuites><testsuite name="pytest" tests="6">
<testcase classname="tests.test_api" name="one"/>
<testcase classname="tests.test_api" name="two"><failure message="no"/></testcase>
<testcase classname="tests.test_api" name="three"><error message="no"/></testcase>
<testcase classname="tests.test_adaround" name="four"><skipped message="no torch"/></testcase>
<testcase classname="tests.test_golden" name="five"/>
<testcase classname="tests.test_golden" name="six"><failure message="no"/></testcase>
<testcase classname="tests.test_golden" name="seven"><skipped message="other releases"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def pythons(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("pythons")


def test_tests_are_counted_by_how_they_ended(pythons: Any) -> None:
    outcome = pythons.outcome_of(REPORT)
    assert (outcome.passed, outcome.skipped, outcome.failed, outcome.golden) == (2, 2, 3, (1, 2))
    row = pythons.row_of(["3.10.1", "1.2", "3.4", "5.6"], False, outcome)
    assert row == "| 3.10.1 | 1.2 | 3.4 | 5.6 | part | 2 | 2 | 3 | 1 of 2 |"
    skipped = pythons.Outcome(passed=1, skipped=2, failed=0, golden=(0, 0))
    assert pythons.row_of(["3.10.1"], True, skipped) == "| 3.10.1 | all | 1 | 2 | 0 | not compared |"


def test_rows_of_other_pythons_are_kept_in_order(pythons: Any) -> None:
    rows = {(3, 9): "| 3.9.1 | a |", (3, 10): "| 3.10.13 | b |"}
    text = pythons.page(rows)
    assert text.splitlines()[-2:] == list(rows.values())
    assert pythons.rows_of(text) == rows and pythons.notes_of(text) == pythons.notes_of("") == ""
    noted = pythons.page(rows, "\nOne failed.\n")
    assert noted == f"{text}\nOne failed.\n" and pythons.notes_of(noted) == "\nOne failed.\n"
    heading, line = text.splitlines()[-4:-2]
    assert heading.count("|") == line.count("|") == 10


def test_a_row_is_written_beside_those_of_another_run(
    pythons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = tmp_path / "pythons.md", sys.version_info[:2]
    monkeypatch.setattr(pythons, "PAGE", path)

    def tested(python: str, version: tuple[int, int], whole: bool) -> Any:
        path.write_text(pythons.page({(2, 7): "| 2.7.1 | all |"}), encoding="utf8")
        return f"| {version[0]}.{version[1]}.0 | {whole} |", pythons.outcome_of(REPORT)

    monkeypatch.setattr(pythons, "tested", tested)
    assert pythons.main([sys.executable]) == 1
    assert pythons.rows_of(path.read_text(encoding="utf8")) == {
        (2, 7): "| 2.7.1 | all |", own: f"| {own[0]}.{own[1]}.0 | False |",
    }  # fmt: skip


def test_torch_alone_is_left_out(pythons: Any) -> None:
    needed = ["torch==2.13.0", "torchlike>=1", "pytest>=8", "x; python_version >= '3.11'"]
    assert pythons.wanted(needed) == needed[1:]


def test_a_python_that_is_not_there_is_told(pythons: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "PAGE", tmp_path / "pythons.md")
    with pytest.raises(SystemExit, match="no-such-python: does not run"):
        pythons.main(["no-such-python"])
    assert not (tmp_path / "pythons.md").exists()


def test_releases_are_those_of_the_digests(pythons: Any) -> None:
    assert pythons.same_releases(["2.4.6", "1.23.2", "1.32.0", "x86_64", "a processor"]) == [
        "numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0",
    ]  # fmt: skip


def test_what_is_skipped_on_an_old_runtime_is_there_and_runs_on_the_newest() -> None:
    text = "".join(file.read_text(encoding="utf8") for file in (ROOT / "tests").glob("test_*.py"))
    for start in NEEDED:
        assert f"def {start.split('[')[0]}(" in text
        assert reason_to_skip(start, "1.25.0") is reason_to_skip(start, "1.32.0") is None
        assert str(reason_to_skip(start, "1.23.2")).startswith("onnxruntime 1.23.2: ")
    assert reason_to_skip("test_something_else", "1.20.0") is None
