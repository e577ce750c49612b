"""The sections of a report as text in a terminal (rich)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mixquant_onnx.report.sections import Part


def show(parts: Sequence[Part], console: Console) -> None:
    """Print each section in order.

    Args:
        parts: The sections with their data.
        console: Where to print.
    """
    for part in parts:
        part.section.render(console, part.data)
