"""The page of a run or of a plan, from its summary alone."""

from __future__ import annotations

from mixquant_onnx.report.brief import quality_text, spread_text
from mixquant_onnx.report.figures.run import RUN_FIGURES
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.html.page import Card, Table, drawn, rendered, timing_cards
from mixquant_onnx.report.sections.verification import title as title_of_rows
from mixquant_onnx.report.sections.weights import TensorData, shape_text
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
    return [*cards, *timing_cards(summary.get("latency", []), summary.get("memory"))]


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
