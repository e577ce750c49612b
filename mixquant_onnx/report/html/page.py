"""The page: headline, figures and tables of a run, from its summary alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import vl_convert

from mixquant_onnx.report.brief import quality_text, spread_text
from mixquant_onnx.report.figures.run import RUN_FIGURES
from mixquant_onnx.report.figures.style import Data, Figure, spec
from mixquant_onnx.report.figures.sweep import SWEEP_FIGURES
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.sections.tradeoff import Tradeoff
from mixquant_onnx.report.sections.verification import title as title_of_rows
from mixquant_onnx.report.sections.weights import TensorData, shape_text
from mixquant_onnx.report.summary import Summary


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
        figures=_drawn(RUN_FIGURES, summary),
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
    rows = [[p["setting"], str(p["nbytes"]), f"{p['average_bits']:.2f}", decibels(p["sqnr_db"]),
             "-" if p["accuracy"] is None else f"{p['accuracy']:.2%}", "yes" if p["pareto"] else ""]
            for p in [*points, *([] if data["plain_int8"] is None else [data["plain_int8"]])]]  # fmt: skip
    exact = data["float_accuracy"]
    more = f"float: {size(data['nbytes_before'])}" + ("" if exact is None else f", accuracy {exact:.2%}")
    return _rendered(
        title=f"mixquant-onnx sweep: {name}",
        cards=[Card("plans", str(len(points)), more), *_card_of_int8(data)],
        warnings=[],
        figures=_drawn(SWEEP_FIGURES, data),
        tables=[Table("Plans", "", ("plan", "bytes", "bits a weight", "SQNR", "accuracy", "none better"), rows)],
        lines=[],
        command=command,
    )


def _card_of_int8(data: Tradeoff) -> list[Card]:
    plain = data["plain_int8"]
    if plain is None:
        return []
    exact = "" if plain["accuracy"] is None else f", accuracy {plain['accuracy']:.2%}"
    return [Card(plain["setting"], size(plain["nbytes"]), decibels(plain["sqnr_db"]) + exact)]


def _rendered(**values: Any) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf8"))
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") if values["figures"] else ""
    return template.render(library=library, **values)


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


def _drawn(figures: Mapping[str, Figure[Data]], data: Data) -> list[Drawn]:
    drawn = [(figure, figure.draw(data)) for figure in figures.values()]
    return [Drawn(f.title, f.text, _script(spec(f, chart))) for f, chart in drawn if chart is not None]


def _script(value: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script."""
    return json.dumps(value).replace("<", "\\u003c")


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
