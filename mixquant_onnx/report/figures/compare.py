"""Figures of a comparison of two models, from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt

from mixquant_onnx.report.figures.style import COLORS, GREY, Chart, Figure, named_axis, values
from mixquant_onnx.report.formats import decibels
from mixquant_onnx.report.sections.comparison import ComparisonData
from mixquant_onnx.verification.layer_differences import APART_DB


def inner_values(data: ComparisonData) -> Chart | None:
    """The SQNR of each value that both models have, in the order of the graph."""
    known = [(layer, sqnr) for layer in data["layers"] if isinstance(sqnr := layer["sqnr_db"], (int, float))]
    rows = [
        {
            "place": place, "value": layer["name"], "operator": layer["op"], "sqnr": sqnr,
            "told": decibels(layer["sqnr_db"]), "near": sqnr >= APART_DB,
        }
        for place, (layer, sqnr) in enumerate(known)
    ]  # fmt: skip
    if not rows:
        return None
    names = named_axis([layer["name"] for layer, _ in known])
    bars: alt.Chart = (
        alt.Chart(values(*rows))
        .mark_bar()
        .encode(
            x=alt.X("place:O", title="values in the order of the graph", axis=names),
            y=alt.Y("sqnr:Q", title="SQNR in dB"),
            color=alt.condition("datum.near", alt.value(COLORS[7]), alt.value(COLORS[3])),
            tooltip=[alt.Tooltip("value:N"), alt.Tooltip("operator:N"), alt.Tooltip("told:N", title="SQNR")],
        )
    )
    limit = alt.Chart(values({"limit": APART_DB})).mark_rule(strokeDash=[6, 4], color=GREY, size=2).encode(y="limit:Q")
    return alt.layer(bars, limit)


COMPARISON_FIGURES: Mapping[str, Figure[ComparisonData]] = {
    "values": Figure(
        title="Values inside",
        text=f"SQNR of each value that both models have; the dashed line is at {APART_DB:g} dB, below which they part.",
        draw=inner_values,
        default=True,
    ),
}
"""By name, in the order of the page."""
