"""Mutation testing by mutmut: which small changes to the source do the nearest tests not notice?

Each source file is mutated in a copy of the project, with the test files that stand for it in NEAREST. Survivors whose
change is in mutants_explained.md are counted apart. Constants of modules are not changed by mutmut.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = Path(__file__).with_name("mutants_explained.md")
PACKAGE = "mixquant_onnx"

NEAREST = {
    "planning/allocators/qem.py": ["qem_rule"],
    "planning/allocators/safe.py": ["safe"],
    "planning/allocators/*.py": ["knapsack"],
    "numerics/metrics.py": ["noise"],
    "numerics/noise.py": ["noise"],
    "numerics/outputs.py": ["noise"],
    "numerics/parts.py": ["noise"],
    "numerics/rounding_error.py": ["rounding_error"],
    "numerics/*.py": ["numerics"],
    "quantization/rounding/adaround.py": ["adaround"],
    "quantization/rounding/bias_corrected.py": ["bias_corrected"],
    "quantization/rounding/shrinkage.py": ["shrinkage"],
    "quantization/rounding/*.py": ["solvers"],
    "export/encodings/*.py": ["encoding_units"],
}
"""Test files by pattern of the source file, the first pattern that fits."""

KILLED, SURVIVED, UNTESTED = "killed", "survived", "no test reaches it"

Change = tuple[str, ...]
"""The lines of a diff that differ, without indentation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One change to a source file. `diff` is empty where a test noticed it."""

    name: str
    outcome: str
    diff: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/mutate", description=__doc__)
    parser.add_argument("paths", nargs="*", help="source files or folders; all that NEAREST has tests for by default")
    parser.add_argument("--tests", nargs="+", help="test files in place of those in NEAREST")
    parser.add_argument("--children", type=int, default=2, help="processes at once (2)")
    options = parser.parse_args(arguments)
    known = explained(EXPLAINED.read_text())
    unexplained = 0
    for source in sources(options.paths):
        tests = options.tests or [f"tests/test_{name}.py" for name in nearest(source)]
        mutants = mutate(source, tests, options.children)
        unexplained += report(source, mutants, known.get(source, set()))
    return 1 if unexplained else 0


def sources(paths: Iterable[str]) -> list[str]:
    """Source files relative to the project, in order. Exits where a path is none, or has no tests in NEAREST."""
    found: set[Path] = set()
    for path in [Path(p).resolve() for p in paths] or [ROOT / PACKAGE]:
        found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    inside = {file.relative_to(ROOT).as_posix() for file in found if file.is_file() and file.is_relative_to(ROOT)}
    wanted = sorted(file for file in inside if nearest(file) and not file.endswith("__init__.py"))
    return wanted or sys.exit("tools/mutate: no source file with tests in NEAREST among what was given")


def nearest(source: str) -> list[str]:
    return next((tests for pattern, tests in NEAREST.items() if fnmatch(source, f"{PACKAGE}/{pattern}")), [])


def mutate(source: str, tests: Sequence[str], children: int) -> list[Mutant]:
    """All mutants of one file, run in a copy of the project."""
    with tempfile.TemporaryDirectory(prefix="mutate.") as folder:
        copy = Path(folder)
        for part in (PACKAGE, "tests", "models"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        settings = {
            "source_paths": [f"{PACKAGE}/"], "only_mutate": [source], "also_copy": ["models"],
            "pytest_add_cli_args_test_selection": list(tests), "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        }  # fmt: skip
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        project = (ROOT / "pyproject.toml").read_text()
        (copy / "pyproject.toml").write_text("\n".join([project, "[tool.mutmut]", *lines, ""]))
        ran = _mutmut(copy, "run", "--max-children", str(children))
        stored = copy / "mutants" / f"{source}.meta"
        if not stored.is_file():
            sys.exit(f"tools/mutate: mutmut failed on {source}\n{ran[-3000:]}")
        codes = json.loads(stored.read_text())["exit_code_by_key"]
        return [_mutant(copy, name, code) for name, code in codes.items()]


def _mutant(copy: Path, name: str, code: int | None) -> Mutant:
    """By the exit code of pytest: 0 where all tests passed, 5 or 33 where none was run."""
    outcome = SURVIVED if code == 0 else UNTESTED if code in (None, 5, 33) else KILLED
    if outcome == KILLED:
        return Mutant(name=name, outcome=outcome)
    return Mutant(name=name, outcome=outcome, diff=_mutmut(copy, "show", name))


def _mutmut(copy: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def change(diff: str) -> Change:
    """The lines that differ, which stay the same when code around them moves."""
    lines = [line for line in diff.splitlines() if re.match(r"[+-](?!\+\+ |-- )", line)]
    return tuple(line[0] + line[1:].strip() for line in lines)


def is_equivalent(made: Change) -> bool:
    """Whether only `strict` of a zip is changed, whose arguments have one length in code that is right."""
    plain = {re.sub(r",? *(strict=(True|False|None))?\)", ")", line[1:]) for line in made}
    return len(made) == 2 and len(plain) == 1


def explained(text: str) -> dict[str, set[Change]]:
    """The changes in the diffs of mutants_explained.md, by the source file that is their section's title."""
    found: dict[str, set[Change]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].strip()
        blocks = re.findall(r"^```diff\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        found[title] = {change(part) for block in blocks for part in block.split("\n\n")}
    return found


def report(source: str, mutants: Sequence[Mutant], known: set[Change]) -> int:
    """Prints the counts and the survivors that are not explained; returns how many those are."""
    alive = [mutant for mutant in mutants if mutant.outcome != KILLED]
    left = [m for m in alive if change(m.diff) not in known and not is_equivalent(change(m.diff))]
    share = len(alive) / max(len(mutants), 1)
    print(
        f"{source}: {len(mutants) - len(alive)} killed, {len(alive)} survived ({share:.0%}), "
        f"{len(alive) - len(left)} of them explained",
        flush=True,
    )
    for mutant in left:
        print(f"  {mutant.outcome}: {mutant.name.rsplit('.', 1)[-1]}")
        print("".join(f"    {line}\n" for line in change(mutant.diff)), end="", flush=True)
    return len(left)


if __name__ == "__main__":
    sys.exit(main())
