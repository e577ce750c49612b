"""The page of a run or of a plan, from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixquant_onnx.errors import counted
from mixquant_onnx.report.brief import spread_text
from mixquant_onnx.report.figures.run import RUN_FIGURES
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.html.page import Card, Table, drawn, quality_card, rendered, timing_cards
from mixquant_onnx.report.sections.header import TrialData
from mixquant_onnx.report.sections.verification import title as title_of_rows
from mixquant_onnx.report.sections.weights import ON_PURPOSE, is_moved, ratio_text, shape_text
from mixquant_onnx.report.summary import Summary


def run_page(summary: Summary, name: str, command: str) -> str:
    """The report of a run as HTML, without anything from outside.

    Args:
        summary: The summary of a run or of a plan.
        name: Name of the model.
        command: The command that repeats the run.

    Returns:
        The text of the file.
    """
    found = summary.get("verification")
    return rendered(
        title=f"mixquant-onnx: {name}",
        cards=_cards(summary),
        warnings=list(found["warnings"]) if found else [],
        figures=drawn(RUN_FIGURES, summary),
        tables=_tables(summary),
        lines=[*summary["notes"], *summary.get("hints", [])],
        command=command,
    )


_JUDGED = {"metric": "metric", "min_sqnr": "SQNR", "min_agreement": "agreement", "max_kl": "KL"}
"""What is judged, by the first of these options that was given."""


def _cards(summary: Summary) -> list[Card]:
    before = summary["nbytes_before"]
    cards, trials = list[Card](), summary.get("trials", [])
    if summary["goal"] is not None:
        met = sum(trial["kept"] for trial in trials)
        cards.append(
            Card("goal", summary["goal"], f"met by {met} of {counted(len(trials), 'trial')}" if trials else "")
        )
    if "nbytes_after" in summary:
        after = summary["nbytes_after"]
        cards.append(Card("size", size(after), f"{after / before:.1%} of {size(before)}"))
    cards.append(Card("bits a weight", f"{summary['average_bits']:.2f}", f"weights: {spread_text(summary)}"))
    found = summary.get("verification")
    if found and found["quality"]:
        cards.append(quality_card(found["quality"][-1], found["float_accuracy"]))
    return [*cards, *timing_cards(summary.get("latency", []), summary.get("memory"))]


def _tables(summary: Summary) -> list[Table]:
    found, tables = summary.get("verification"), list[Table]()
    if found:
        exact = found["float_accuracy"]
        rows = [[q["profile"], *quality_card(q, exact)[1:]] for q in found["quality"]]
        text = (
            f"Codes of {counted(found['codes'], 'weight')} decode exactly. Against the float graph with these weights: "
        )
        text += f"{decibels(found['oracle_sqnr_db'])}. "
        text += f"Outputs {title_of_rows(found)}." if rows else "No outputs were compared."
        tables.append(Table("Verification", text, ("profile", "SQNR", "decisions and accuracy"), rows))
    if "trials" in summary:
        tables.append(_trials(summary["trials"], summary["options"]))
    tables.append(_all_weights(summary))
    skipped = [[one["name"], one["reason"], size(one["nbytes"])] for one in summary["skipped"]]
    if skipped:
        share = (
            f"{summary['left_float']['share']:.1%} of the input's bytes. Small tensors, which this table leaves out, "
        )
        share += "are included" + (", as in the figure of bytes." if "nbytes_after" in summary else ".")
        tables.append(Table("Left as float", share, ("tensor", "why", "bytes"), skipped))
    return [*tables, _options(summary)]


def _trials(trials: Sequence[TrialData], options: Mapping[str, Any]) -> Table:
    """The trials in order, with what was judged."""
    rows = [[str(place), f"{one['bits']:.2f}", size(one["nbytes"]), _judged(one["value"], options),
             "yes" if one["kept"] else "no"] for place, one in enumerate(trials, 1)]  # fmt: skip
    text = "Files that were made and judged for the goal, in order; the smallest that meets it was kept."
    judged = next((text for name, text in _JUDGED.items() if name in options), "value")
    return Table("Trials", text, ("trial", "bits a weight", "size", judged, "goal met"), rows)


def _judged(value: float | str | None, options: Mapping[str, Any]) -> str:
    """Decibels for a goal in SQNR, a plain number for the user's metric and for KL, else a share."""
    if "min_sqnr" in options:
        return decibels(value)
    if {"metric", "max_kl"} & options.keys() or not isinstance(value, (int, float)):
        return "-" if value is None else f"{value:.6g}" if isinstance(value, (int, float)) else value
    return f"{value:.2%}"


def _options(summary: Summary) -> Table:
    """Versions, what was asked for, and the settings of the plan where they are not the same."""
    asked, rows = summary["options"], [[name, version, "version"] for name, version in summary["versions"].items()]
    rows += [[name, str(value), "given"] for name, value in asked.items()]
    rows += [[name, str(value), "plan"] for name, value in summary["settings"].items() if asked.get(name) != value]
    text = "Given: on the command line, in a file or in Python. Plan: what was decided, or is the default."
    return Table("Versions and options", text, ("name", "value", "what"), rows)


def _all_weights(summary: Summary) -> Table:
    """The weights in the order of the graph; share of the loss and form only where they are known."""
    tensors, text = summary["tensors"], "QE: mean squared error of the weight; / int8: as a multiple of plain int8's."
    columns = ["weight", "shape", "scheme", "bytes", "QE", "/ int8", "SQNR"]
    rows = [[t["name"], shape_text(t), t["scheme"], str(t["nbytes"]), f"{t['qe']:.2e}", ratio_text(t),
             decibels(t["sqnr_db"])] for t in tensors]  # fmt: skip
    if "sensitivity" in summary:
        held = summary["sensitivity"]
        columns.append("share of the loss")
        text += f" Share of the loss: of the sum that {held['cost']} gives the weights at their bits."
        rows = [[*row, f"{held['shares'].get(t['name'], 0.0):.1%}"] for row, t in zip(rows, tensors, strict=True)]
    if any("form" in t for t in tensors):
        columns.append("form")
        text += f" Form: how the file stores it.{f' {ON_PURPOSE}' if any(map(is_moved, tensors)) else ''}"
        rows = [[*row, t.get("form", "")] for row, t in zip(rows, tensors, strict=True)]
    return Table("All weights", text, columns, rows)
