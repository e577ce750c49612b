"""Section: the files that were written."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.report.inputs import Run


class Files(TypedDict):
    """Paths of the model and its external data; empty where the model stays in memory."""

    files: list[str]


def data(run: Run) -> Files | None:
    """The files of a run; None where nothing was run."""
    return None if run.result is None else {"files": [str(file) for file in run.result.files]}


def render(console: Console, data: Files) -> None:
    """Print the paths in one line."""
    if data["files"]:
        console.print(f"wrote {escape(', '.join(data['files']))}")
