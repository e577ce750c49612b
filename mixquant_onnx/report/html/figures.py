"""Figures of a run, from its summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from mixquant_onnx.report.formats import decibels, size
from mixquant_onnx.report.sections.tradeoff import PointData
from mixquant_onnx.report.sections.weights import TensorData, shape_text
from mixquant_onnx.report.summary import Summary

COLORS = {2: "#b2182b", 3: "#d6604d", 4: "#f4a582", 5: "#92c5de", 6: "#4393c3", 7: "#2166ac", 8: "#053061"}
"""Of each width: red for few bits, blue for many; distinct for colour-blind eyes."""

_GREY = "#888888"
_HEIGHT = 420


def layers(summary: Summary) -> go.Figure:
    """A bar for each weight in the order of the graph: its bytes, coloured by bits.

    Args:
        summary: The summary.

    Returns:
        The figure; scheme, error and bytes show on hover.
    """
    figure = go.Figure()
    tensors = summary["tensors"]
    for bits in sorted({t["bits"] for t in tensors}):
        chosen = [(place, t) for place, t in enumerate(tensors) if t["bits"] == bits]
        figure.add_bar(
            x=[place for place, _ in chosen],
            y=[t["nbytes"] for _, t in chosen],
            name=f"{bits} bits",
            marker_color=COLORS[bits],
            customdata=[_told(t) for _, t in chosen],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_layout(bargap=0.15, xaxis_title="weights in the order of the graph", yaxis_title="bytes")
    return _styled(figure)


def errors(summary: Summary) -> go.Figure:
    """The error of each weight at every width; the chosen one is marked. A menu selects the weight.

    Args:
        summary: The summary.

    Returns:
        The figure.
    """
    figure, buttons = go.Figure(), []
    tensors = [t for t in summary["tensors"] if t["qe_by_bits"]]
    for place, t in enumerate(tensors):
        widths = [int(bits) for bits in t["qe_by_bits"]]
        shown = place == 0
        figure.add_scatter(
            x=widths, y=list(t["qe_by_bits"].values()), mode="lines+markers", name="error", visible=shown,
            line_color=_GREY, marker={"size": [14 if w == t["bits"] else 7 for w in widths],
                                      "color": [COLORS[w] for w in widths]},
            hovertemplate="%{x} bits: %{y:.2e}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[min(widths), max(widths)], y=[t["baseline_qe"]] * 2, mode="lines", name="plain int8", visible=shown,
            line={"dash": "dash", "color": _GREY}, hovertemplate="plain int8: %{y:.2e}<extra></extra>",
        )  # fmt: skip
        visible = [k // 2 == place for k in range(2 * len(tensors))]
        buttons.append({"label": escape(t["name"]), "method": "update", "args": [{"visible": visible}]})
    figure.update_layout(
        xaxis_title="bits",
        yaxis={"title": "QE (mean squared error)", "type": "log", "exponentformat": "power"},
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.18, "yanchor": "top", "showactive": True}],
    )
    return _styled(figure)


def parts(summary: Summary) -> go.Figure:
    """Where the bytes of the file are: weights by width, floats that stay, and the rest.

    Args:
        summary: The summary of a run.

    Returns:
        The figure.
    """
    after, named = summary["nbytes_after"], list[tuple[str, int, str]]()
    for bits in sorted({t["bits"] for t in summary["tensors"]}):
        held = sum(t["nbytes"] for t in summary["tensors"] if t["bits"] == bits)
        named.append((f"weights at {bits} bits", held, COLORS[bits]))
    floats = min(summary["left_float"]["nbytes"], after)
    named.append(("left as float", floats, "#d9a521"))
    rest = after - sum(nbytes for _, nbytes, _ in named)
    named.append(("names, nodes, functions", max(rest, 0), _GREY))
    figure = go.Figure()
    for name, nbytes, color in named:
        figure.add_bar(
            y=[""], x=[nbytes], name=name, orientation="h", marker_color=color,
            hovertemplate=f"{name}: {size(nbytes)}, {nbytes / after:.1%}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="stack", xaxis_title="bytes")
    return _styled(figure, 220)


def tradeoff(points: Sequence[PointData], nbytes_before: int) -> go.Figure:
    """Size against quality of many plans; the Pareto front is joined.

    Args:
        points: The plans, as `sweep --json` writes them.
        nbytes_before: Size of the float model.

    Returns:
        The figure.
    """
    shown = [p for p in points if isinstance(p["sqnr_db"], (int, float))]
    front = sorted((p for p in shown if p["pareto"]), key=lambda p: int(p["nbytes"]))
    figure = go.Figure()
    figure.add_scatter(
        x=[p["nbytes"] for p in front], y=[p["sqnr_db"] for p in front], mode="lines", name="Pareto front",
        line_color=_GREY, hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=[p["nbytes"] for p in shown], y=[p["sqnr_db"] for p in shown], mode="markers", name="plans",
        marker={"size": 10, "color": COLORS[4]},
        customdata=[f"{p['setting']}: {size(p['nbytes'])}, {decibels(p['sqnr_db'])}" for p in shown],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=nbytes_before, line_dash="dash", line_color=_GREY, annotation_text="float")
    figure.update_layout(xaxis_title="bytes", yaxis_title="SQNR in dB")
    return _styled(figure)


def _told(tensor: TensorData) -> str:
    lines = [
        f"<b>{escape(tensor['name'])}</b>",
        escape(f"{shape_text(tensor)}, {', '.join(tensor['ops'])}"),
        f"{tensor['scheme']}: {size(tensor['nbytes'])}",
        f"QE {tensor['qe']:.2e}, {decibels(tensor['sqnr_db'])}",
    ]
    return "<br>".join(lines)


def _styled(figure: go.Figure, height: int = _HEIGHT) -> go.Figure:
    """Readable on white and on black: no background of its own, grey text and lines."""
    lines = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)", "automargin": True}
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY, "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right", "traceorder": "normal"},
    )
    figure.update_xaxes(**lines)
    figure.update_yaxes(**lines)
    return figure
