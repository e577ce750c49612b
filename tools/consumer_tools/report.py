"""The results as Markdown: a row for each consumer and form, a column for each width."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.timing import table

from consumer_tools.catalog import Consumer
from consumer_tools.files import FORMS, WIDTHS
from consumer_tools.measure import Result

WRONG = 20.0


def tables(results: Sequence[Result]) -> str:
    """All of it."""
    runtimes = [r for r in results if not r.consumer.rewrites]
    rewriters = [r for r in results if r.consumer.rewrites]
    parts = []
    if runtimes:
        parts += ["## Runtimes", "", _widths(runtimes), ""]
    if rewriters:
        parts += ["## Tools that rewrite the file", "", _REWRITTEN, "", _widths(rewriters), ""]
    return "\n".join([*parts, "## What does not run", "", _failures(results)])


_REWRITTEN = """Bytes of what they write as a multiple of the file before, and its SQNR (ONNX Runtime without
optimizations)."""


def _consumers(results: Sequence[Result]) -> list[Consumer]:
    return list({r.consumer.name: r.consumer for r in results}.values())


def _release(results: Sequence[Result]) -> str:
    return next((r.release for r in results if r.release), "")


def _widths(results: Sequence[Result]) -> str:
    rows = []
    for consumer in _consumers(results):
        mine = [r for r in results if r.consumer == consumer]
        for form in FORMS:
            cells = [_cell([r for r in mine if r.file.form == form and r.file.bits == bits]) for bits in WIDTHS]
            rows.append([f"{consumer.name} {_release(mine)}".strip(), f"`{form}`", *cells])
    return table(["", "file", *(f"{bits} bits" for bits in WIDTHS)], rows)


def _cell(results: Sequence[Result]) -> str:
    """The worst of the models; where only some run, how many."""
    if not results:
        return "-"
    ran = [r for r in results if r.decibels is not None]
    if not ran:
        return "no"
    worst = min(r.decibels or 0.0 for r in ran)
    shown = f"{worst:.0f} dB" if worst >= WRONG else "wrong"
    if all(r.nbytes for r in ran):
        after = sum(r.nbytes or 0 for r in ran)
        shown = f"x{after / sum(r.file.nbytes for r in ran):.2f}, {shown}"
    return shown if len(ran) == len(results) else f"{shown}; {len(ran)} of {len(results)} models"


def _failures(results: Sequence[Result]) -> str:
    """Each reason once, with the forms and widths that it holds for."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.failure is not None:
            found.setdefault((result.consumer.name, result.failure), []).append(result)
    rows = [[name, why, "; ".join(_where(those, form) for form in FORMS if _of(those, form))]
            for (name, why), those in found.items()]  # fmt: skip
    return table(["", "why", "file: bits"], rows) if rows else "Everything runs."


def _of(results: Sequence[Result], form: str) -> list[Result]:
    return [r for r in results if r.file.form == form]


def _where(results: Sequence[Result], form: str) -> str:
    """A form with its widths, and the model where it is only one."""
    mine = _of(results, form)
    models = {r.file.model for r in mine}
    only = f" ({models.pop()})" if len(models) == 1 else ""
    return f"`{form}`: {', '.join(str(bits) for bits in sorted({r.file.bits for r in mine}))}{only}"
