"""Runs the fast tests on other Pythons, each in an environment of its own, and writes docs/research/pythons.md.

All of them on the oldest and on the newest Python that is there, a part on the others and on those that are named.
torch is left out: it is optional, and what needs it is skipped. Rows of Pythons that are not run stay in the page.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "research" / "pythons.md"
PYTHONS = tuple(f"python3.{minor}" for minor in range(10, 15))
LEFT_OUT = ("torch",)
PART = ("cli", "golden", "end_to_end", "api", "numerics")
"""The test files of a part."""

SHOWN = ("onnx", "onnxruntime", "numpy")
FACTS = """
import importlib.metadata as m, json, platform, sys
print(json.dumps([platform.python_version(), *(m.version(name) for name in sys.argv[1:])]))
"""
HEAD = """# Python versions

Made by `tools/pythons`: the tests that are not slow on each Python, in an environment without torch. "Part" are
{part}. NumPy, onnx and onnxruntime are of the releases
with which the digests in `tests/golden.json` were written, by Python 3.11; where a Python has none of these, the
newest. "Same bytes" are the files that have these digests, of those that were compared: none with other releases.

| Python | {shown} | tests | passed | skipped | failed | same bytes |
|---|{lines}---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Counts of tests by pytest's report; `golden` are those of test_golden that passed, of how many that ran."""

    passed: int
    skipped: int
    failed: int
    golden: tuple[int, int]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/pythons", description=__doc__)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="commands; python3.10 to python3.14 by default")
    parser.add_argument("--whole", action="store_true", help="all fast tests on each")
    options = parser.parse_args(arguments)
    found = {name: version for name in options.pythons or PYTHONS if (version := version_of(name))}
    lost = [name for name in options.pythons if name not in found]
    if lost or not found:
        sys.exit(f"tools/pythons: {', '.join(lost) or 'no Python'}: does not run")
    ordered = sorted(found, key=found.__getitem__)
    bad = 0
    for name in ordered:
        whole = options.whole or (not options.pythons and name in (ordered[0], ordered[-1]))
        row, outcome = tested(name, found[name], whole)
        bad += outcome.failed
        text = PAGE.read_text(encoding="utf8") if PAGE.exists() else ""  # another run may have written it
        PAGE.write_text(page({**rows_of(text), found[name]: row}, notes_of(text)), encoding="utf8")
        print(row, flush=True)
    return 1 if bad else 0


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor); None where the command does not run."""
    script = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    except OSError:
        return None
    major, minor = done.stdout.split() if done.returncode == 0 else (0, 0)
    return (int(major), int(minor)) if int(major) else None


def tested(python: str, version: tuple[int, int], whole: bool) -> tuple[str, Outcome]:
    """The row of the table, after the tests have run."""
    own = _environment(python, version)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [] if whole else [f"tests/test_{name}.py" for name in PART]
        command = [own, "-m", "pytest", "-q", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider"]
        subprocess.run([*command, f"--junitxml={report}", *files], cwd=ROOT, check=False)
        outcome = outcome_of(report.read_text(encoding="utf8"))
    facts = subprocess.run([own, "-c", FACTS, *SHOWN], capture_output=True, text=True, check=True).stdout
    return row_of(json.loads(facts), whole, outcome), outcome


def _environment(python: str, version: tuple[int, int]) -> Path:
    """Its Python, with the package and what its tests need."""
    folder = ROOT / f".venv-py{version[0]}.{version[1]}"
    own = folder / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    install: list[str | Path] = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["optional-dependencies"]
    every = [*install, *wanted(needed["test"]), "-e", ROOT]
    golden = json.loads((ROOT / "tests" / "golden.json").read_text(encoding="utf8"))["environment"]
    if subprocess.run([*every, *same_releases(golden)], check=False, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(every, check=True)
    return own


def wanted(needed: Sequence[str]) -> list[str]:
    """Requirements of the tests without those in LEFT_OUT."""
    return [one for one in needed if re.split(r"[^A-Za-z0-9_.-]", one)[0] not in LEFT_OUT]


def same_releases(golden: Sequence[str]) -> list[str]:
    """Requirements of the releases with which tests/golden.json was written."""
    return [f"{name}=={release}" for name, release in zip(("numpy", "onnx", "onnxruntime"), golden, strict=False)]


def outcome_of(report: str) -> Outcome:
    """The counts in a JUnit report."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    golden = [case for case in cases if "test_golden" in case.get("classname", "")]
    compared = [case for case in golden if case not in skipped]
    return Outcome(
        passed=len(cases) - len(failed) - len(skipped),
        skipped=len(skipped),
        failed=len(failed),
        golden=(len([case for case in compared if case not in failed]), len(compared)),
    )


def row_of(facts: Sequence[str], whole: bool, outcome: Outcome) -> str:
    counts = (outcome.passed, outcome.skipped, outcome.failed)
    cells = [*facts, "all" if whole else "part", *map(str, counts), _share(*outcome.golden)]
    return f"| {' | '.join(cells)} |"


def _share(same: int, compared: int) -> str:
    return f"{same} of {compared}" if compared else "not compared"


def rows_of(text: str) -> dict[tuple[int, int], str]:
    """The rows of a page by the version of Python."""
    lines = [line for line in text.splitlines() if re.match(r"\| \d+\.\d+\.", line)]
    return {(int(line.split(".")[0][2:]), int(line.split(".")[1])): line for line in lines}


def notes_of(text: str) -> str:
    """What stands below the table, written by hand."""
    return re.split(r"^\|.*\n", text, flags=re.MULTILINE)[-1] if "\n|" in text else ""


def page(rows: Mapping[tuple[int, int], str], notes: str = "") -> str:
    part = ", ".join(f"test_{name}" for name in PART)
    head = HEAD.format(part=part, shown=" | ".join(SHOWN), lines="---|" * len(SHOWN))
    return head + "".join(f"{rows[version]}\n" for version in sorted(rows)) + notes


if __name__ == "__main__":
    sys.exit(main())
