"""The page of a sweep, from its summary alone."""

from __future__ import annotations

from mixquant_onnx.report.figures.sweep import SWEEP_FIGURES
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.html.page import Card, Table, drawn, rendered
from mixquant_onnx.report.sections.tradeoff import (
    TOKEN_COLUMNS,
    Tradeoff,
    agreement_text,
    lines_on_quality,
    share_text,
    token_rows,
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
             agreement_text(p), share_text(p["accuracy"]), "yes" if p["pareto"] else ""]
            for p in [*points, *([] if data["plain_int8"] is None else [data["plain_int8"]])]]  # fmt: skip
    columns = ("plan", "bytes", "bits a weight", "SQNR", "agrees", "accuracy", "none better in SQNR")
    text = " ".join(f"{line[0].upper()}{line[1:]}." for line in lines_on_quality(data))
    exact = data["float_accuracy"]
    more = f"float: {size(data['nbytes_before'])}" + ("" if exact is None else f", accuracy {exact:.2%}")
    return rendered(
        title=f"mixquant-onnx sweep: {name}",
        cards=[Card("plans", str(len(points)), more), *_card_of_int8(data)],
        figures=drawn(SWEEP_FIGURES, data),
        tables=[Table("Plans", text, columns, rows), *_of_tokens(data)],
        command=command,
    )


def _of_tokens(data: Tradeoff) -> list[Table]:
    rows = [list(row) for row in token_rows(data)]
    text = "Divergence from the float model, ± its standard error over sequences."
    return [Table("Next token", text, TOKEN_COLUMNS, rows)] if rows else []


def _card_of_int8(data: Tradeoff) -> list[Card]:
    plain = data["plain_int8"]
    if plain is None:
        return []
    exact = "" if plain["accuracy"] is None else f", accuracy {plain['accuracy']:.2%}"
    return [Card(plain["setting"], size(plain["nbytes"]), decibels(plain["sqnr_db"]) + exact)]
