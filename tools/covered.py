"""Which share of the package's lines and branches the tests reach, by a report of `coverage json`: the files with the
most missing, and exit code 1 below the least shares (`fail_under` of coverage.py knows only one share of both)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEAST = {"lines": 0.97, "branches": 0.94}
"""Shares of the fast tests."""

MOST_FILES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/test --coverage", description=__doc__)
    parser.add_argument("report", type=Path, help="what `coverage json` has written")
    report = json.loads(parser.parse_args(arguments).report.read_text(encoding="utf8"))
    for line in missing(report["files"]):
        print(line)
    found = shares(report["totals"])
    low = [name for name, share in found.items() if share < LEAST[name]]
    print(", ".join(f"{found[name]:.2%} of {name} (at least {LEAST[name]:.0%})" for name in LEAST))
    if low:
        print(f"tools/test: too few {' and '.join(low)} are reached by a test", file=sys.stderr)
    return 1 if low else 0


def shares(totals: Mapping[str, int]) -> dict[str, float]:
    """Of lines and of branches; 0 where there is none to reach, since then nothing was measured."""
    counts = {
        "lines": (totals["covered_lines"], totals["num_statements"]),
        "branches": (totals["covered_branches"], totals["num_branches"]),
    }
    return {name: reached / all_ if all_ else 0.0 for name, (reached, all_) in counts.items()}


def missing(files: Mapping[str, Any]) -> list[str]:
    """The files with the most lines and branches that no test reaches, a line each, the worst first."""
    lacking = {name: (len(file["missing_lines"]), len(file["missing_branches"])) for name, file in files.items()}
    worst = sorted(lacking, key=lambda name: (-sum(lacking[name]), name))[:MOST_FILES]
    return [
        f"{name}: {lacking[name][0]} lines ({', '.join(map(str, files[name]['missing_lines']))}), "
        f"{lacking[name][1]} branches"
        for name in worst
        if any(lacking[name])
    ]


if __name__ == "__main__":
    sys.exit(main())
