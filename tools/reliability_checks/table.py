"""The counts as tables, as JSON, and in docs/reliability.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from reliability_checks.verdict import KINDS, Tally

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reliability.md"
HEAD = (
    "| part | cases | crashes | hangs | wrong results | lost inputs | s | of |",
    "|---|---|---|---|---|---|---|---|",
)
MARKS = {name: (f"<!-- {name} -->", f"<!-- end of {name} -->") for name in ("counts", "outcomes")}
SHOWN = ("onnxruntime", "onnx", "numpy", "hypothesis")


def counts(tallies: Sequence[Tally]) -> str:
    """A row a part, and how often each outcome came."""
    return "\n".join([*HEAD, *map(_row, tallies), "", *(line for one in tallies for line in _outcomes(one))])


def _row(one: Tally) -> str:
    if one.skipped is not None:
        return f"| {one.part} | skipped: {one.skipped} | - | - | - | - | - | {_today()} |"
    tried = f"{one.tried} (of a run broken off: {one.left} named cases are left)" if one.left else one.tried
    cells = [one.part, tried, *(one.count(kind) for kind in KINDS), round(one.seconds), _today()]
    return f"| {' | '.join(map(str, cells))} |"


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _outcomes(one: Tally) -> list[str]:
    return [f"| {one.part} | {outcome} | {count} |" for outcome, count in one.outcomes.most_common()]


def as_json(tallies: Sequence[Tally]) -> str:
    """Everything that was counted, each failure with its case."""
    found = [
        {
            "part": one.part,
            "skipped": one.skipped,
            "cases": one.tried,
            **{kind: one.count(kind) for kind in KINDS},
            "outcomes": dict(one.outcomes),
            "failures": [{"case": case, "kind": f.kind, "detail": f.detail} for case, f in one.failures],
            "seconds": round(one.seconds, 1),
        }
        for one in tallies
    ]
    return json.dumps(found, indent=1) + "\n"


def machine() -> str:
    """Where this ran, without names."""
    shown = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    return f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, {shown}"


def write(tallies: Sequence[Tally]) -> None:
    """Put the counts of some parts into the page; those of others stay."""
    text = PAGE.read_text(encoding="utf8")
    parts = {one.part for one in tallies}
    rows = [line for line in _between(text, "counts") if line.startswith("| ") and _part(line) not in {*parts, "part"}]
    text = _put(text, "counts", [*HEAD, *rows, *map(_row, tallies), "", f"Last on {machine()}."])
    rows = [
        line for line in _between(text, "outcomes") if line.startswith("| ") and _part(line) not in {*parts, "part"}
    ]
    made = [line for one in tallies for line in _outcomes(one)]
    text = _put(text, "outcomes", ["| part | outcome | cases |", "|---|---|---|", *rows, *made])
    PAGE.write_text(text, encoding="utf8")


def _part(line: str) -> str:
    return line.split("|")[1].strip()


def _between(text: str, name: str) -> list[str]:
    start, end = MARKS[name]
    found = re.search(f"{re.escape(start)}\n(.*?){re.escape(end)}", text, re.DOTALL)
    return found[1].splitlines() if found else []


def _put(text: str, name: str, lines: Sequence[str]) -> str:
    start, end = MARKS[name]
    before, rest = text.split(start, 1)
    return "\n".join([f"{before}{start}", *lines, f"{end}{rest.split(end, 1)[1]}"])
