"""Figures of a run or of a plan, from its summary alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from mixquant_onnx.report.figures.style import COLORS, GREY, YELLOW, Chart, Figure, bits_color, named_axis, values
from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.sections.histograms import HistogramData
from mixquant_onnx.report.sections.weights import ON_PURPOSE, TensorData, shape_text
from mixquant_onnx.report.summary import Summary

_MENU = 100
"""Most weights in a menu: those of the largest share of the loss."""

_CANDIDATE, _WRITTEN = "rounded by itself", "as written"
"""Errors of a weight."""

_LINES = 64
"""Most points of a grid that are drawn one by one."""


def parts(summary: Summary) -> Chart | None:
    """Where the bytes of the file are: weights by width, floats that stay, and the rest; None for a plan."""
    if "nbytes_after" not in summary:
        return None
    after, colors = summary["nbytes_after"], dict[str, str]()
    found = dict[str, int]()
    for bits in sorted({t["bits"] for t in summary["tensors"]}):
        found[f"weights at {bits} bits"] = sum(t["nbytes"] for t in summary["tensors"] if t["bits"] == bits)
        colors[f"weights at {bits} bits"] = COLORS[bits]
    found["left as float"] = min(summary["left_float"]["nbytes"], after)
    found["names, nodes, functions"] = max(after - sum(found.values()), 0)
    colors |= {"left as float": YELLOW, "names, nodes, functions": GREY}
    rows = [
        {"part": name, "bytes": nbytes, "told": f"{size(nbytes)}, {nbytes / after:.1%}", "order": place}
        for place, (name, nbytes) in enumerate(found.items())
    ]
    scale = alt.Scale(domain=list(colors), range=list(colors.values()))
    chart: alt.Chart = (
        alt.Chart(values(*rows))
        .mark_bar()
        .encode(
            x=alt.X("bytes:Q", title="bytes", axis=alt.Axis(format="~s", tickCount=8), scale=alt.Scale(nice=False)),
            color=alt.Color("part:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=3)),
            order="order:Q",
            tooltip=[alt.Tooltip("part:N"), alt.Tooltip("told:N", title="bytes")],
        )
    )
    return chart


def layers(summary: Summary) -> Chart | None:
    """A bar for each weight in the order of the graph, as high as its bytes, coloured by bits."""
    if not summary["tensors"]:
        return None
    rows = [
        {"place": place, "bits": t["bits"], "nbytes": t["nbytes"], **_told(t, summary)}
        for place, t in enumerate(summary["tensors"])
    ]
    told = [alt.Tooltip(f"{key}:N") for key in rows[0] if key not in ("place", "bits", "nbytes")]
    names = named_axis([t["name"] for t in summary["tensors"]])
    chart: alt.Chart = (
        alt.Chart(values(*rows))
        .mark_bar()
        .encode(
            x=alt.X("place:O", title="weights in the order of the graph", axis=names),
            y=alt.Y("nbytes:Q", title="bytes", axis=alt.Axis(format="~s")),
            color=bits_color(),
            tooltip=told,
        )
    )
    return chart


def errors(summary: Summary) -> Chart | None:
    """The error of a weight at every width, and as written. A menu selects the weight."""
    shown = [t for t in _by_loss(summary) if any(qe > 0 for qe in t["qe_by_bits"].values())]
    if not shown:
        return None
    rows = [
        {"weight": t["name"], "bits": int(bits), "qe": qe, "chosen": int(bits) == t["bits"], "what": _CANDIDATE}
        for t in shown for bits, qe in t["qe_by_bits"].items() if qe > 0
    ]  # fmt: skip
    written = [
        {"weight": t["name"], "bits": t["bits"], "qe": t["qe"], "what": _WRITTEN}
        for t in shown if "form" in t and t["qe"] > 0
    ]  # fmt: skip
    lines = [{"weight": t["name"], "qe": t["baseline_qe"], "what": "plain int8"} for t in shown if t["baseline_qe"] > 0]
    x = alt.X("bits:O", title="bits", axis=alt.Axis(labelAngle=0))
    y = alt.Y(
        "qe:Q", title="QE (mean squared error)", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e", tickCount=5)
    )
    chosen = alt.condition("datum.chosen", alt.value(260), alt.value(60))
    told = [alt.Tooltip("what:N"), alt.Tooltip("bits:O"), alt.Tooltip("qe:Q", title="QE", format=".2e")]
    base = alt.Chart(values(*rows)).encode(x=x, y=y)
    marks = base.mark_point(filled=True, opacity=1)
    drawn = [
        base.mark_line(color=GREY),
        marks.encode(color=bits_color(), size=chosen, tooltip=told, **(_shape() if written else {})),
    ]
    if written:
        outline = alt.Chart(values(*written)).mark_point(filled=False, size=260, strokeWidth=3, opacity=1)
        drawn.append(outline.encode(x=x, y=y, color=bits_color(), tooltip=told, **_shape()))
    baseline = alt.Chart(values(*lines)).mark_rule(strokeDash=[6, 4], color=YELLOW, size=2)
    drawn.append(baseline.encode(y=y, tooltip=[alt.Tooltip("what:N"), alt.Tooltip("qe:Q", format=".2e")]))
    return _with_menu(drawn if lines else drawn[:-1], [t["name"] for t in shown], "errors")


def _shape() -> dict[str, alt.Shape]:
    """Circles for the errors of candidates, diamonds for those as written."""
    scale = alt.Scale(domain=[_CANDIDATE, _WRITTEN], range=["circle", "diamond"])
    legend = alt.Legend(orient="top", symbolFillColor=GREY, symbolStrokeColor=GREY)
    return {"shape": alt.Shape("what:N", title="error", scale=scale, legend=legend)}


def histogram(summary: Summary) -> Chart | None:
    """The values of a weight in steps of their scales, with the grid of its codes. A menu selects the weight."""
    held = summary.get("histograms", {})
    shown = [t for t in _by_loss(summary) if t["name"] in held]
    if not shown:
        return None
    bars = [row for t in shown for row in _bars(t, held[t["name"]])]
    grid = [row for t in shown for row in _grid(t, held[t["name"]])]
    x = alt.X("from:Q", title="value in steps of its scale", axis=alt.Axis(grid=False, tickMinStep=1))
    told = [alt.Tooltip("share:Q", title="of the values", format=".2%"), alt.Tooltip("clipped:Q", format=".2%")]
    y = alt.Y("share:Q", title="share of the values", axis=alt.Axis(format="%"))
    drawn = [
        alt.Chart(values(*grid)).mark_rule(color=GREY, opacity=0.5).encode(x=x),
        alt.Chart(values(*bars)).mark_bar(opacity=0.85).encode(
            x=x, x2="to:Q", y2=alt.Y2Datum(0), y=y,
            color=bits_color(), tooltip=told,
        ),
    ]  # fmt: skip
    return _with_menu(drawn, [t["name"] for t in shown], "histogram")


def _bars(tensor: TensorData, held: HistogramData) -> Iterator[Mapping[str, Any]]:
    total = sum(held["counts"])
    for place, count in enumerate(held["counts"]):
        if count:
            start = held["start"] + place * held["width"]
            yield {
                "weight": tensor["name"], "bits": tensor["bits"], "from": start, "to": start + held["width"],
                "share": count / total, "clipped": held["clipped"],
            }  # fmt: skip


def _grid(tensor: TensorData, held: HistogramData) -> Iterator[Mapping[str, Any]]:
    """All points of the grid, or its ends where they are too many."""
    points: Sequence[int] = range(held["lowest"], held["highest"] + 1)
    if len(points) > _LINES:
        points = (held["lowest"], held["highest"])
    for point in points:
        yield {"weight": tensor["name"], "from": point}


def _with_menu(drawn: Sequence[alt.Chart], names: Sequence[str], figure: str) -> Chart:
    """Charts that show the rows of one weight, which a menu selects."""
    menu = alt.param(name=f"{figure}_of", bind=alt.binding_select(options=list(names), name="weight "), value=names[0])
    return alt.layer(*(one.transform_filter(f"datum.weight == {figure}_of") for one in drawn)).add_params(menu)


def _by_loss(summary: Summary) -> list[TensorData]:
    """The weights, the largest share of the loss first; in the order of the graph where that is not known."""
    shares = summary["sensitivity"]["shares"] if "sensitivity" in summary else {}
    return sorted(summary["tensors"], key=lambda t: -shares.get(t["name"], 0.0))[:_MENU]


def _told(tensor: TensorData, summary: Summary) -> dict[str, str]:
    told = {
        "weight": tensor["name"],
        "shape": f"{shape_text(tensor)}, {', '.join(tensor['ops'])}",
        "scheme": tensor["scheme"],
        "bytes": size(tensor["nbytes"]),
        "QE": f"{tensor['qe']:.2e}",
        "SQNR": decibels(tensor["sqnr_db"]),
    }
    if "sensitivity" in summary:
        held = summary["sensitivity"]
        told["share of the loss"] = f"{held['shares'].get(tensor['name'], 0.0):.1%} (by {held['cost']})"
    return told


RUN_FIGURES: Mapping[str, Figure[Summary]] = {
    "bytes": Figure(
        title="Where the bytes are", text="Parts of the written file.", draw=parts, height=70, of_plan=False
    ),
    "weights": Figure(
        title="Weights",
        text="One bar for each weight, as high as its bytes, coloured by its bits.",
        draw=layers,
        default=True,
    ),
    "errors": Figure(
        title="Error against bits",
        text="The larger mark is the width that was chosen, the dashed line plain int8, the diamond the error as "
        f"written. {ON_PURPOSE} Choose a weight in the menu; the one of the largest share of the loss comes first.",
        draw=errors,
    ),
    "histogram": Figure(
        title="Values and grid",
        text="Values divided by their scales, so that the grid of the codes lies at whole numbers in every channel. Of "
        "more than 64 points only the ends are drawn. Values beyond the ends are clipped.",
        draw=histogram,
        of_plan=False,
    ),
}
"""By name, in the order of the page."""

PLAN_FIGURES: Mapping[str, Figure[Summary]] = {name: made for name, made in RUN_FIGURES.items() if made.of_plan}
"""Those that show something of a plan that was not executed."""
