"""Section: remarks of all stages on what was not done, or done differently than requested."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.report.inputs import Run


class Notes(TypedDict):
    """The key of this section."""

    notes: list[str]


def data(run: Run) -> Notes:
    """The notes of planning, and of a run those of quantization, rewrite and verification."""
    result = run.result
    notes = list(run.planned.notes)
    if result is not None:
        notes += [*result.notes, *result.rewritten.notes]
        notes += result.verification.notes if result.verification is not None else ()
    return {"notes": notes}


def render(console: Console, data: Notes) -> None:
    """Print one line per note."""
    for note in data["notes"]:
        console.print(f"note: {escape(note)}")
