"""Figures of a sweep, from its summary alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt

from mixquant_onnx.report.figures.style import COLORS, GREY, YELLOW, Chart, Figure, values
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.sections.tradeoff import PointData, Tradeoff
from mixquant_onnx.report.tokens import tokens_text
from mixquant_onnx.tradeoff.point import on_front
from mixquant_onnx.tradeoff.reference import PLAIN_INT8

_MARGIN = 0.1
"""Free room at both ends of the axis of bytes, as a share."""


def sqnr(data: Tradeoff) -> Chart | None:
    """Size against the SQNR of the outputs."""
    return _chart(data, _number_of_sqnr, "SQNR in dB", "~g", None)


def accuracy(data: Tradeoff) -> Chart | None:
    """Size against accuracy; None without labels."""
    return _chart(data, lambda p: p["accuracy"], "accuracy", ".1%", data["float_accuracy"])


def divergence(data: Tradeoff) -> Chart | None:
    """Size against the divergence of the next token; None where the model gives none."""
    return _chart(data, _number_of_kl, "KL in nats a token", "~g", None, falling=True)


def _chart(
    data: Tradeoff, value_of: Callable[[PointData], float | None], title: str, form: str, of_float: float | None,
    falling: bool = False,
) -> Chart | None:  # fmt: skip
    """`falling`: less is better, and the scale is logarithmic."""
    plain = data["plain_int8"]
    points = [*data["points"], *([] if plain is None else [plain])]
    rows = [_row(p, value) for p in points if (value := value_of(p)) is not None]
    if not rows:
        return None
    ends = [min(row["bytes"] for row in rows) * (1 - _MARGIN), data["nbytes_before"] * (1 + _MARGIN)]
    x = alt.X("bytes:Q", axis=alt.Axis(format="~s", tickCount=6), scale=alt.Scale(type="log", domain=ends))
    scale = alt.Scale(type="log") if falling else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=title, axis=alt.Axis(format=form), scale=scale)
    names, colors = ["plans", PLAIN_INT8, "float"], [COLORS[4], COLORS[8], YELLOW]
    kind = alt.Color("kind:N", title=None, scale=alt.Scale(domain=names, range=colors), legend=alt.Legend(orient="top"))
    sign = -1 if falling else 1
    best = [row for row, on in on_front(rows, lambda r: (r["bytes"], sign * r["value"])) if on]
    front = alt.Chart(values(*best)).mark_line(color=GREY)
    drawn = [
        front.encode(x=x, y=y),
        alt.Chart(values({"bytes": data["nbytes_before"], "kind": "float", "told": "float"}))
        .mark_rule(strokeDash=[6, 4], size=2)
        .encode(x=x, color=kind, tooltip=["told:N"]),
    ]
    if of_float is not None:
        rows.append(
            {"bytes": data["nbytes_before"], "value": of_float, "kind": "float", "told": f"float: {of_float:.2%}"}
        )
    marks = alt.Chart(values(*rows)).mark_point(filled=True, size=110, opacity=1)
    drawn.append(marks.encode(x=x, y=y, color=kind, tooltip=[alt.Tooltip("told:N", title="plan")]))
    return alt.layer(*drawn)


def _row(point: PointData, value: float) -> dict[str, Any]:
    told = f"{point['setting']}: {size(point['nbytes'])}, {decibels(point['sqnr_db'])}"
    if point["accuracy"] is not None:
        told += f", accuracy {point['accuracy']:.2%}"
    if point["tokens"] is not None:
        told += f", {tokens_text(point['tokens'])}"
    kind = PLAIN_INT8 if point["setting"] == PLAIN_INT8 else "plans"
    return {"bytes": point["nbytes"], "value": value, "kind": kind, "told": told}


def _number_of_sqnr(point: PointData) -> float | None:
    return point["sqnr_db"] if isinstance(point["sqnr_db"], (int, float)) else None


def _number_of_kl(point: PointData) -> float | None:
    """None for 0, which a logarithmic scale does not have."""
    value = None if point["tokens"] is None else point["tokens"]["kl"]["value"]
    return value if isinstance(value, float) and value > 0 else None


_TEXT = "Each mark is a plan; the line joins those that no other is both smaller and better than."

SWEEP_FIGURES: Mapping[str, Figure[Tradeoff]] = {
    "accuracy": Figure(title="Size against accuracy", text=_TEXT, draw=accuracy),
    "divergence": Figure(title="Size against divergence of the next token", text=_TEXT, draw=divergence),
    "tradeoff": Figure(title="Size against quality", text=_TEXT, draw=sqnr, default=True),
}
"""By name, in the order of the page."""
