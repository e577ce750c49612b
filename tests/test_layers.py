"""Imports: the contract of layers in pyproject.toml, and libraries that one place alone knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

PACKAGE = ROOT / "mixquant_onnx"


def test_imports_go_to_a_lower_layer() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_graphsurgeon_and_onnxruntime_are_imported_in_one_place_each() -> None:
    for library, home in (("onnx_graphsurgeon", "model/files.py"), ("onnxruntime", "runtime/session.py")):
        users = [f for f in PACKAGE.rglob("*.py") if f"import {library}" in f.read_text()]
        assert [str(f.relative_to(PACKAGE)) for f in users] == [home]


def test_few_files_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 14
