"""Section: the tensors that stay float, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixquant_onnx.errors import counted
from mixquant_onnx.model.constants import float_nbytes
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.report.formats import most_rows, print_rest, short, size, table
from mixquant_onnx.report.inputs import Run


class SkippedTensor(TypedDict):
    """A float tensor that is not quantized. `nbytes`: as stored."""

    name: str
    reason: str
    nbytes: int


class LeftFloatShare(TypedDict):
    """All float tensors that are not quantized, small ones included. `share`: of the input's bytes, from 0 to 1."""

    nbytes: int
    share: float


class LeftFloat(TypedDict):
    """The keys of this section."""

    skipped: list[SkippedTensor]
    left_float: LeftFloatShare


def data(run: Run) -> LeftFloat:
    """The tensors that stay float by the plan."""
    loaded = run.planned.loaded
    stored = float_nbytes(walk(loaded.model))
    left = sum(nbytes for name, nbytes in stored.items() if name not in run.plan.sites)
    return {
        "skipped": [
            {"name": name, "reason": reason, "nbytes": stored.get(name, 0)} for name, reason in run.plan.skipped.items()
        ],
        "left_float": {"nbytes": left, "share": left / loaded.nbytes},
    }


def render(console: Console, data: LeftFloat) -> None:
    """Print a table of reasons, the most common first, and the share of bytes; with -v also all names."""
    if data["skipped"]:
        if most_rows(console) is None:
            console.print(_names(data["skipped"]))
        by_reason: dict[str, list[str]] = {}
        for entry in data["skipped"]:
            by_reason.setdefault(entry["reason"], []).append(entry["name"])
        made = table("left as float")
        made.add_column("reason")
        made.add_column("tensors", justify="right")
        made.add_column("for example", overflow="ellipsis", no_wrap=True)
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1]))[: most_rows(console)]:
            made.add_row(escape(reason), str(len(names)), escape(short(names[0])))
        console.print(made)
        print_rest(console, len(by_reason), "reason")
    console.print(f"left as float: {data['left_float']['share']:.1%} of the input's bytes, small tensors included")


def _names(skipped: Sequence[SkippedTensor]) -> Table:
    """All tensors by name."""
    made = table(f"{counted(len(skipped), 'tensor')} left as float")
    for name in ("tensor", "bytes", "reason"):
        made.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    for one in skipped:
        made.add_row(escape(one["name"]), size(one["nbytes"]), escape(one["reason"]))
    return made
