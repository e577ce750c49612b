"""The built files: what is in them is checked, and the wheel works where nothing else is installed."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import ROOT

from mixquant_onnx.errors import OptionError

CNN = ROOT / "models" / "digits_cnn"
SOME_TESTS = ("tests/test_documentation.py", "tests/test_api.py")
"""Those that need tools, docs and models."""

METADATA = """Metadata-Version: 2.4
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.10
Description-Content-Type: text/markdown
Classifier: Programming Language :: Python :: 3.10
Classifier: Typing :: Typed
"""


@pytest.fixture
def dist(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("dist")


def _wheel(folder: Path, dist: Any, metadata: str = METADATA, changed: Mapping[str, bytes | None] = {}) -> Path:
    """One that is right but for `changed`: other content of a file by its name, or None for no such file."""
    files: dict[str, bytes | None] = dict.fromkeys(dist._package_files(), b"")
    files["m-1.dist-info/METADATA"] = metadata.encode()
    files["m-1.dist-info/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    path = folder / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **changed}.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_a_wheel_that_is_right_has_no_problem(tmp_path: Path, dist: Any) -> None:
    assert dist.wheel_problems(_wheel(tmp_path, dist)) == []


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("mixquant_onnx/py.typed", None, "wheel: no mixquant_onnx/py.typed"),
        ("mixquant_onnx/report/html/page.html", None, "wheel: no mixquant_onnx/report/html/page.html"),
        ("mixquant_onnx/data/pictures/00.jpg", None, "wheel: no mixquant_onnx/data/pictures/00.jpg"),
        ("mixquant_onnx/api.py", None, "wheel: no mixquant_onnx/api.py"),
        ("tests/test_api.py", b"", "wheel: tests/test_api.py too many"),
        ("models/digits_cnn/model.onnx", b"", "wheel: models/digits_cnn/model.onnx too many"),
        ("m-1.dist-info/licenses/LICENSE", None, "wheel: the licence file is missing or another"),
        ("m-1.dist-info/licenses/LICENSE", b"MIT", "wheel: the licence file is missing or another"),
    ],
)
def test_a_file_missing_or_too_many_in_a_wheel_is_told(
    tmp_path: Path, dist: Any, name: str, content: bytes | None, problem: str
) -> None:
    assert dist.wheel_problems(_wheel(tmp_path, dist, changed={name: content})) == [problem]


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("License-Expression: Apache-2.0", "License: Apache", "metadata: License-Expression is None, not Apache-2.0"),
        ("Python: >=3.10", "Python: >=3.9", "metadata: Requires-Python is >=3.9, not >=3.10"),
        ("Classifier: Typing :: Typed\n", "", "metadata: no classifier Typing :: Typed"),
        ("Python :: 3.10", "Python :: 3.11", "metadata: no classifier Programming Language :: Python :: 3.10"),
        (
            "Metadata-",
            "Classifier: License :: Other\nMetadata-",
            "metadata: a licence classifier beside License-Expression",
        ),
    ],
)
def test_metadata_that_differ_are_told(tmp_path: Path, dist: Any, before: str, after: str, problem: str) -> None:
    assert before in METADATA
    assert dist.wheel_problems(_wheel(tmp_path, dist, METADATA.replace(before, after))) == [problem]


def test_a_source_distribution_without_the_tests_is_told(tmp_path: Path, dist: Any) -> None:
    path, inside = tmp_path / "m-1.tar.gz", ("pyproject.toml", "LICENSE", "tests/cases.py", *dist._package_files())
    with tarfile.open(path, "w:gz") as archive:
        for name in inside:
            archive.addfile(tarfile.TarInfo(f"m-1/{name}"), io.BytesIO())
    problems = dist.source_problems(path)
    assert "source distribution: no README.md" in problems
    assert "source distribution: no tests/test_distribution.py" in problems
    assert not {f"source distribution: no {name}" for name in inside} & set(problems)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, made and checked by tools/dist."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    pinned = re.findall(r'"([a-z-]+==[\d.]+)"', re.findall(r"^distribution = \[(.*)\]", project, re.MULTILINE)[0])
    python = _environment(tmp_path_factory.mktemp("build"), *pinned)
    folder = tmp_path_factory.mktemp("dist")
    command: list[str | Path] = [python, ROOT / "tools" / "dist.py", "--to", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checked by tools/dist, twine, check-wheel-contents\n") == 2
    return folder


def _environment(folder: Path, *packages: str | Path) -> Path:
    """The Python of a new environment that has only these packages and what they need."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, capture_output=True)
    return python


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    command = str(_environment(tmp_path / "empty", wheel).with_name("mixquant-onnx"))
    output, page = tmp_path / "out.onnx", tmp_path / "report.html"

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [command, *map(str, arguments)]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    helped = run("--help")
    assert helped.returncode == 0 and "inspect" in helped.stdout and not helped.stderr
    told = run(CNN / "model.onnx", output, "--qem", "2", "--report", page)
    assert told.returncode == OptionError.exit_code and not output.exists() and not page.exists()
    assert told.stderr.splitlines() == [
        "mixquant-onnx: --report needs altair, vl-convert-python and jinja2: pip install 'mixquant-onnx[report]'"
    ]
    done = run(CNN / "model.onnx", output, "--qem", "2")
    assert done.returncode == 0 and not done.stderr
    onnx.checker.check_model(onnx.load(output), full_check=True)
    assert output.stat().st_size < 0.3 * (CNN / "model.onnx").stat().st_size


@pytest.mark.slow
def test_the_source_distribution_runs_its_own_tests(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("mixquant_onnx-*")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SOME_TESTS]
    script = "import sys, pathlib; sys.path.insert(0, '.'); import mixquant_onnx; print(mixquant_onnx.__file__)"
    where = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert Path(where.stdout.strip()).is_relative_to(folder)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": "."}, check=False)
    assert done.returncode == 0, done.stdout
