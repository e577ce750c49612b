"""tools/test --coverage: lines and branches have a least share each."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture
def covered(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("covered")


def _report(folder: Path, lines: int, branches: int, of: int = 1000) -> str:
    totals = {"covered_lines": lines, "num_statements": of, "covered_branches": branches, "num_branches": of}
    files = {
        "good.py": {"missing_lines": [], "missing_branches": []},
        "some.py": {"missing_lines": [7], "missing_branches": []},
        "bad.py": {"missing_lines": [3, 4], "missing_branches": [[3, 5]]},
    }
    path = folder / "coverage.json"
    path.write_text(json.dumps({"totals": totals, "files": files}))
    return str(path)


@pytest.mark.parametrize(
    ("lines", "branches", "low"),
    [
        (970, 940, ""),
        (969, 940, "tools/test: too few lines are reached by a test\n"),
        (970, 939, "tools/test: too few branches are reached by a test\n"),
        (1000, 900, "tools/test: too few branches are reached by a test\n"),
        (900, 900, "tools/test: too few lines and branches are reached by a test\n"),
    ],
)
def test_each_share_has_its_least(
    tmp_path: Path, covered: Any, capsys: pytest.CaptureFixture[str], lines: int, branches: int, low: str
) -> None:
    assert covered.main([_report(tmp_path, lines, branches)]) == (1 if low else 0)
    assert capsys.readouterr().err == low


def test_a_report_without_anything_measured_fails(tmp_path: Path, covered: Any) -> None:
    assert covered.main([_report(tmp_path, 0, 0, of=0)]) == 1


def test_the_files_with_the_most_missing_come_first(
    tmp_path: Path, covered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    covered.main([_report(tmp_path, 1000, 1000)])
    assert capsys.readouterr().out.splitlines() == [
        "bad.py: 2 lines (3, 4), 1 branches",
        "some.py: 1 lines (7), 0 branches",
        "100.00% of lines (at least 97%), 100.00% of branches (at least 94%)",
    ]
