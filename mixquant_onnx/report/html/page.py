"""What the pages have in common: cards, figures and tables, and their form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import vl_convert

from mixquant_onnx.report.brief import quality_text
from mixquant_onnx.report.figures.style import Data, Figure, spec
from mixquant_onnx.report.quality import QualityData
from mixquant_onnx.report.sections.timing import LatencyData, MemoryPair


class Card(NamedTuple):
    """A figure of the headline."""

    what: str
    value: str
    more: str


class Drawn(NamedTuple):
    """A figure with its heading, and its Vega-Lite specification as JSON."""

    title: str
    text: str
    spec: str


class Table(NamedTuple):
    """A table with its heading."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def rendered(
    *,
    title: str,
    cards: Sequence[Card],
    figures: Sequence[Drawn],
    tables: Sequence[Table],
    command: str,
    warnings: Sequence[str] = (),
    lines: Sequence[str] = (),
) -> str:
    """A page as HTML, without anything from outside.

    Args:
        title: Its heading.
        cards: The figures of the headline.
        figures: Its figures.
        tables: Its tables.
        command: The command that repeats it.
        warnings: Shown before the figures.
        lines: Notes and hints.

    Returns:
        The text of the file.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf8"))
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") if figures else ""
    return template.render(
        title=title, cards=cards, figures=figures, tables=tables, command=command, warnings=warnings, lines=lines,
        library=library,
    )  # fmt: skip


def drawn(figures: Mapping[str, Figure[Data]], data: Data) -> list[Drawn]:
    """The figures that have something to show.

    Args:
        figures: A table of figures.
        data: The summary that they show.

    Returns:
        Figures in the order of the table.
    """
    charts = [(figure, figure.draw(data)) for figure in figures.values()]
    return [Drawn(f.title, f.text, _script(spec(f, chart))) for f, chart in charts if chart is not None]


def _script(value: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script."""
    return json.dumps(value).replace("<", "\\u003c")


def quality_card(quality: QualityData, float_accuracy: float | None) -> Card:
    """The card of the quality of outputs.

    Args:
        quality: The outputs under one profile.
        float_accuracy: Top-1 accuracy of the float model; None without labels.

    Returns:
        The SQNR, with decisions and accuracy below it.
    """
    value, _, more = quality_text(quality, float_accuracy).partition(", ")
    return Card("quality", value, more)


def timing_cards(latency: Sequence[LatencyData], memory: MemoryPair | None) -> list[Card]:
    """Cards of time and memory.

    Args:
        latency: Times with different numbers of threads; the first is shown.
        memory: Of both sessions; None where not measured.

    Returns:
        Cards, none where nothing was measured.
    """
    cards = []
    for one in latency[:1]:
        share = f"{one['written_ms'] / one['float_ms']:.2f} of float's"
        cards.append(Card("time of one row", share, f"{one['written_ms']:.3g} ms, one thread"))
    if memory is not None:
        part = memory["written"]["held"] / max(memory["float"]["held"], 1)
        cards.append(Card("memory", f"{part:.2f} of float's", f"{memory['written']['held'] / 1e6:.0f} MB"))
    return cards
