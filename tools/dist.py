"""Builds the wheel and the source distribution, each in an environment of its own, and checks them: by twine and
check-wheel-contents where they are installed, and that the files and the metadata are those that are meant."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mixquant_onnx"
SHIPPED = (".py", ".jpg")
"""Endings of the files of the package that a wheel has, beside OTHERS."""

OTHERS = ("py.typed", "data/pictures/manifest.json", "report/html/page.html")
FOR_TESTS = ("tests", "models", "tools", "docs")
"""Folders of a source distribution, which are not in a wheel."""

METADATA = {
    "License-Expression": "Apache-2.0",
    "License-File": "LICENSE",
    "Requires-Python": ">=3.10",
    "Description-Content-Type": "text/markdown",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/dist", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="folder of the built files (dist)")
    folder: Path = parser.parse_args(arguments).to
    for old in [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]:
        old.unlink()
    _run("build", "--outdir", str(folder), str(ROOT))
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    others = _checked_by_others(wheel, source)
    wrong = [*wheel_problems(wheel), *source_problems(source)]
    for problem in wrong:
        print(f"tools/dist: {problem}", file=sys.stderr)
    for file in (wheel, source):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, checked by tools/dist{others}")
    return 1 if wrong else 0


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"tools/dist: {module} failed\n{done.stdout.decode(errors='replace')[-3000:]}")


def _checked_by_others(wheel: Path, source: Path) -> str:
    """Their names, for the last line. Exits where one finds something."""
    checks = {"twine": ["check", "--strict", str(wheel), str(source)], "check_wheel_contents": [str(wheel)]}
    installed = [module for module in checks if importlib.util.find_spec(module)]
    for module in installed:
        _run(module, *checks[module])
    return "".join(f", {module.replace('_', '-')}" for module in installed)


def wheel_problems(wheel: Path) -> list[str]:
    """What is missing in a wheel, or too much, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        licence = f"{info}/licenses/LICENSE"
        found = {name for name in names if not name.startswith(f"{info}/")}
        problems = _differences("wheel", _package_files(), found)
        if licence not in names or archive.read(licence) != (ROOT / "LICENSE").read_bytes():
            problems.append("wheel: the licence file is missing or another")
    return problems + metadata_problems(metadata)


def source_problems(source: Path) -> list[str]:
    """What a source distribution lacks to be built and to run the tests, one line each."""
    with tarfile.open(source) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    wanted = _package_files() | {"pyproject.toml", "LICENSE", "README.md"}
    for folder in FOR_TESTS:
        wanted |= _files(ROOT / folder)
    return [f"source distribution: no {name}" for name in sorted(wanted - found)]


def metadata_problems(metadata: Message) -> list[str]:
    """Values that differ from METADATA, and classifiers or links that must not be there, one line each."""
    problems = [
        f"metadata: {key} is {metadata.get(key)}, not {value}"
        for key, value in METADATA.items()
        if metadata.get(key) != value
    ]
    classifiers = metadata.get_all("Classifier", [])
    oldest = METADATA["Requires-Python"].removeprefix(">=")
    for needed in ("Typing :: Typed", f"Programming Language :: Python :: {oldest}"):
        if needed not in classifiers:
            problems.append(f"metadata: no classifier {needed}")
    if any(name.startswith("License ::") for name in classifiers):
        problems.append("metadata: a licence classifier beside License-Expression")
    return problems


def _differences(what: str, wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    missing, more = set(wanted) - set(found), set(found) - set(wanted)
    return [f"{what}: no {name}" for name in sorted(missing)] + [f"{what}: {name} too many" for name in sorted(more)]


def _package_files() -> set[str]:
    package = ROOT / PACKAGE
    return {name for name in _files(package) if name.endswith(SHIPPED) or name.removeprefix(f"{PACKAGE}/") in OTHERS}


def _files(folder: Path) -> set[str]:
    """Those below a folder, relative to the project, without what Python compiled."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


if __name__ == "__main__":
    sys.exit(main())
