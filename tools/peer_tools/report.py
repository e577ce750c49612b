"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.timing import table

from peer_tools.results import KEPT, Float, Result, nearest, smallest

Found = Mapping[str, tuple[Float, Sequence[Result]]]


def _megabytes(nbytes: int | None) -> str:
    return "-" if nbytes is None else f"{nbytes / 1e6:.3f}"


def row(result: Result) -> list[str]:
    """One line of a model's table."""
    cells = [f"{result.peer}: {result.mode}", result.source, _megabytes(result.nbytes)]
    if result.figure is None or result.loss is None:
        return [*cells, "-", "-", result.note]
    return [
        *cells,
        f"{result.figure:.4f}",
        f"{round(result.loss, 4) + 0.0:+.1%}",
        "" if result.loss <= KEPT else "over 1 %",
    ]


def summary(found: Found) -> str:
    """The smallest file within 1 % for each model."""
    rows = []
    for name, (reference, results) in found.items():
        best, close = smallest(results), nearest(results)
        shown = ["none", "-", "-"]
        if best is not None:
            shown = [_megabytes(best.nbytes), f"{best.figure:.4f}", f"{best.peer}: {best.mode}, {best.source}"]
        elif close is not None:
            shown[2] = f"nearest: {_megabytes(close.nbytes)} MB, {close.figure:.4f}, {close.peer}: {close.mode}"
        rows.append([name, f"{reference.nbytes / 1e6:.2f}", f"{reference.figure:.4f}", *shown])
    return table(["model", "float MB", "float", "smallest MB", "figure", "made by"], rows)


def details(found: Found) -> str:
    """A table for each model."""
    parts = []
    for name, (reference, results) in found.items():
        parts.append(f"## {name}\n\nFloat: {reference.nbytes / 1e6:.2f} MB, {reference.figure:.4f}.\n")
        rows = [row(result) for result in results]
        parts.append(table(["tool: mode", "input", "MB", "figure", "loss", ""], rows) + "\n")
    return "\n".join(parts)
