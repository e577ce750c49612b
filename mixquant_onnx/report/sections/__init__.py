"""The sections of a report, in the order in which a terminal shows them.

A section is a module with `data(run)`, which gives its keys of the summary (None where it has nothing to report), and
`render(console, data)`, which prints them. To add one, add such a module and its name in the table below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console

from mixquant_onnx.report.inputs import Run, Sweep
from mixquant_onnx.report.sections import (
    blocks,
    comparison,
    compatibility,
    files,
    header,
    held,
    hints,
    histograms,
    integers,
    left_float,
    notes,
    sensitivity,
    size,
    timing,
    tradeoff,
    verification,
    weights,
    widening,
)
from mixquant_onnx.verification.comparison import Comparison

Subject = TypeVar("Subject", contravariant=True)


class Section(Protocol[Subject]):
    """The interface of a section."""

    def data(self, subject: Subject, /) -> Mapping[str, Any] | None:
        """Keys of the summary, with values that JSON has; None where the section is left out."""

    def render(self, console: Console, data: Any, /) -> None:
        """Print what `data` gave."""


SECTIONS: tuple[Section[Run], ...] = (
    header,
    weights,
    sensitivity,
    histograms,
    left_float,
    size,
    timing,
    integers,
    compatibility,
    held,
    notes,
    widening,
    verification,
    blocks,
    hints,
    files,
)
"""Sections of a run, and of a plan that is inspected."""

SWEEP_SECTIONS: tuple[Section[Sweep], ...] = (tradeoff,)
"""Sections of a sweep."""

COMPARISON_SECTIONS: tuple[Section[Comparison], ...] = (comparison,)
"""Sections of a comparison."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """A section of one report, and its data there."""

    section: Section[Any]
    data: Mapping[str, Any]


def parts_of(subject: Run | Sweep | Comparison) -> list[Part]:
    """The sections that have something to report.

    Args:
        subject: A run, a sweep or a comparison.

    Returns:
        Sections with their data, in order.
    """
    table: tuple[Section[Any], ...] = SECTIONS
    if isinstance(subject, Sweep):
        table = SWEEP_SECTIONS
    elif isinstance(subject, Comparison):
        table = COMPARISON_SECTIONS
    made = [(section, section.data(subject)) for section in table]
    return [Part(section=section, data=data) for section, data in made if data is not None]
