"""Section: the size of the file before and after."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.report.formats import sizes
from mixquant_onnx.report.inputs import Run


class SizeBefore(TypedDict):
    """Bytes of the float model, external data included."""

    nbytes_before: int


class Size(SizeBefore, total=False):
    """`nbytes_after`: bytes of the written model; present only for a run."""

    nbytes_after: int


def data(run: Run) -> Size:
    """The sizes in bytes."""
    made: Size = {"nbytes_before": run.planned.loaded.nbytes}
    if run.result is not None:
        made["nbytes_after"] = run.result.nbytes_after
    return made


def render(console: Console, data: Size) -> None:
    """Print both sizes and their ratio."""
    if "nbytes_after" in data:
        before, after = data["nbytes_before"], data["nbytes_after"]
        first, second = sizes(before, after)
        console.print(f"size: {first} -> [bold]{second}[/bold] ({after / before:.1%} of the input)")
