"""The page of a comparison of two models, from its summary alone."""

from __future__ import annotations

from mixquant_onnx.report.figures.compare import COMPARISON_FIGURES
from mixquant_onnx.report.formats import decibels, rows_text, size
from mixquant_onnx.report.html.page import Card, Table, drawn, quality_card, rendered, timing_cards
from mixquant_onnx.report.sections.comparison import ComparisonData


def comparison_page(data: ComparisonData, names: tuple[str, str], command: str) -> str:
    """The report of a comparison as HTML, without anything from outside.

    Args:
        data: The comparison.
        names: Names of the models.
        command: The command that repeats it.

    Returns:
        The text of the file.
    """
    quality, (before, after) = data["quality"], data["nbytes"]
    apart = data["first_apart"]
    parting = (
        [] if apart is None else [Card("they part at", apart["op"], f"{apart['name']}: {decibels(apart['sqnr_db'])}")]
    )
    timing = data["timing"]
    cards = [
        Card("size", size(after), f"{after / before:.1%} of {size(before)}"),
        quality_card(quality, data["float_accuracy"]),
        *parting,
        *([] if timing is None else timing_cards(timing["latency"], timing["memory"])),
    ]
    outputs = [[o["name"], decibels(o["sqnr_db"]), "yes" if o["nan"] or o["changed_shapes"] else ""]
               for o in quality["outputs"]]  # fmt: skip
    inner = [[layer["name"], layer["op"], decibels(layer["sqnr_db"])] for layer in data["layers"]]
    limits = [[one["limit"], one["value"], "yes" if one["kept"] else "no"] for one in data["limits"]]
    told = f"The second model against the first, {rows_text(data['samples'], data['data'])}."
    return rendered(
        title=f"mixquant-onnx compare: {names[0]} and {names[1]}",
        cards=cards,
        figures=drawn(COMPARISON_FIGURES, data),
        tables=[
            Table("Outputs", told, ("output", "SQNR", "NaN or other shapes"), outputs),
            *([Table("Limits", "", ("limit", "found", "kept"), limits)] if limits else []),
            *([Table("Values inside", "", ("value", "operator", "SQNR"), inner)] if inner else []),
        ],
        lines=data["notes"],
        command=command,
    )
