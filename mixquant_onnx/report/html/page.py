"""The page: headline, figures and tables of a run, from its summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mixquant_onnx.report.brief import quality_text, spread_text
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.html import figures
from mixquant_onnx.report.sections.tradeoff import Tradeoff
from mixquant_onnx.report.sections.verification import title as title_of_rows
from mixquant_onnx.report.sections.weights import TensorData, shape_text
from mixquant_onnx.report.summary import Summary

_CONFIG = {"displayModeBar": False, "responsive": True}


class Card(NamedTuple):
    """A figure of the headline."""

    what: str
    value: str
    more: str


class Drawn(NamedTuple):
    """A figure with its heading."""

    title: str
    text: str
    html: str


class Table(NamedTuple):
    """A table with its heading."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(summary: Summary, name: str, command: str) -> str:
    """The report of a run as HTML, without anything from outside.

    Args:
        summary: The summary of a run or of a plan.
        name: Name of the model.
        command: The command that repeats the run.

    Returns:
        The text of the file.
    """
    found = summary.get("verification")
    return _rendered(
        title=f"mixquant-onnx: {name}",
        cards=_cards(summary),
        warnings=list(found["warnings"]) if found else [],
        figures=_figures(summary),
        tables=_tables(summary),
        lines=[*summary["notes"], *summary.get("hints", [])],
        command=command,
    )


def sweep_page(data: Tradeoff, name: str, command: str) -> str:
    """The report of a sweep as HTML, without anything from outside.

    Args:
        data: The plans.
        name: Name of the model.
        command: The command that repeats the sweep.

    Returns:
        The text of the file.
    """
    points = data["points"]
    text = "Each mark is a plan; the line joins those that no other is both smaller and better than."
    rows = [[p["setting"], str(p["nbytes"]), f"{p['average_bits']:.2f}", decibels(p["sqnr_db"]),
             "yes" if p["pareto"] else ""] for p in points]  # fmt: skip
    drawn = [("Size against quality", text, figures.tradeoff(points, data["nbytes_before"]))]
    return _rendered(
        title=f"mixquant-onnx sweep: {name}",
        cards=[Card("plans", str(len(points)), f"float: {size(data['nbytes_before'])}")],
        warnings=[],
        figures=_drawn(drawn),
        tables=[Table("Plans", "", ("plan", "bytes", "bits a weight", "SQNR", "none better"), rows)],
        lines=[],
        command=command,
    )


def _rendered(**values: Any) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf8"))
    return template.render(**values)


def _cards(summary: Summary) -> list[Card]:
    before = summary["nbytes_before"]
    cards = []
    if "nbytes_after" in summary:
        after = summary["nbytes_after"]
        cards.append(Card("size", size(after), f"{after / before:.1%} of {size(before)}"))
    cards.append(Card("bits a weight", f"{summary['average_bits']:.2f}", f"weights: {spread_text(summary)}"))
    found = summary.get("verification")
    if found and found["quality"]:
        quality = found["quality"][-1]
        cards.append(Card("quality", decibels(quality["sqnr_db"]), quality_text(quality, found["float_accuracy"])))
    for one in summary.get("latency", [])[:1]:
        share = f"{one['written_ms'] / one['float_ms']:.2f} of float's"
        cards.append(Card("time of one row", share, f"{one['written_ms']:.3g} ms, one thread"))
    held = summary.get("memory")
    if held is not None:
        part = held["written"]["held"] / max(held["float"]["held"], 1)
        cards.append(Card("memory", f"{part:.2f} of float's", f"{held['written']['held'] / 1e6:.0f} MB"))
    return cards


def _figures(summary: Summary) -> list[Drawn]:
    drawn: list[tuple[str, str, go.Figure]] = []
    if "nbytes_after" in summary:
        drawn.append(("Where the bytes are", "Parts of the written file.", figures.parts(summary)))
    if summary["tensors"]:
        told = "One bar for each weight, as high as its bytes, coloured by its bits."
        drawn.append(("Weights", told, figures.layers(summary)))
        told = "The larger mark is the width that was chosen. Choose a weight in the menu."
        drawn.append(("Error against bits", told, figures.errors(summary)))
    return _drawn(drawn)


def _drawn(drawn: Sequence[tuple[str, str, go.Figure]]) -> list[Drawn]:
    """Figures as HTML; the first one brings the library."""
    script = f"<script>{get_plotlyjs()}</script>" if drawn else ""
    made = []
    for title, text, figure in drawn:
        html = figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG)
        made.append(Drawn(title, text, script + html))
        script = ""
    return made


def _tables(summary: Summary) -> list[Table]:
    found, tables = summary.get("verification"), list[Table]()
    if found:
        exact = found["float_accuracy"]
        rows = [[q["profile"], decibels(q["sqnr_db"]), quality_text(q, exact)] for q in found["quality"]]
        text = f"Codes of {found['codes']} weights decode exactly. Against the float graph with these weights: "
        text += f"{decibels(found['oracle_sqnr_db'])}. "
        text += f"Outputs {title_of_rows(found)}." if rows else "No outputs were compared."
        tables.append(Table("Verification", text, ("profile", "SQNR", "quality"), rows))
    tables.append(Table("All weights", "", ("weight", "shape", "scheme", "bytes", "QE", "SQNR"),
                        [_row(t) for t in summary["tensors"]]))  # fmt: skip
    skipped = [[one["name"], one["reason"], size(one["nbytes"])] for one in summary["skipped"]]
    if skipped:
        share = f"{summary['left_float']['share']:.1%} of the input's bytes, small tensors included."
        tables.append(Table("Left as float", share, ("tensor", "why", "bytes"), skipped))
    settings = [[key, str(value)] for key, value in {**summary["versions"], **summary["settings"]}.items()]
    tables.append(Table("Versions and options", "", ("name", "value"), settings))
    return tables


def _row(tensor: TensorData) -> list[str]:
    return [tensor["name"], shape_text(tensor), tensor["scheme"], str(tensor["nbytes"]), f"{tensor['qe']:.2e}",
            decibels(tensor["sqnr_db"])]  # fmt: skip
