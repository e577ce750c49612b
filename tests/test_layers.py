"""Imports: the contract of layers in pyproject.toml, and libraries that one place alone knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "mixquant_onnx"


def test_imports_go_to_a_lower_layer() -> None:
    pytest.importorskip("importlinter", reason="import-linter needs Python 3.11")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


HOMES = {
    "onnx_graphsurgeon": ["model/files.py", "passes/graphsurgeon.py"],
    "onnx_ir": ["passes/ir.py"],
    "onnxruntime": ["runtime/session.py"],
    "altair": [f"report/figures/{name}.py" for name in ("compare", "run", "style", "sweep")],
}
"""The files that import a library."""


def test_libraries_are_imported_where_they_belong() -> None:
    for library, homes in HOMES.items():
        users = [f for f in PACKAGE.rglob("*.py") if f"import {library}" in f.read_text()]
        assert sorted(str(f.relative_to(PACKAGE)) for f in users) == homes


def test_few_files_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 14


LONGEST_FILE, LONGEST_FUNCTION = 300, 40
"""Lines; of a function without its docstring."""


def test_files_and_functions_are_short() -> None:
    functions = 0
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf8")
        assert text.count("\n") <= LONGEST_FILE, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                functions += 1
                first = node.body[0]
                told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                docstring = (first.end_lineno or 0) - first.lineno + 1 if told else 0
                assert node.end_lineno - node.lineno + 1 - docstring <= LONGEST_FUNCTION, f"{file}: {node.name}"
    assert functions > 500
