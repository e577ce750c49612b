"""Section of a comparison: two models, their outputs, values inside, time and memory."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.report.formats import decibels, finite, print_rest, rows_text, short, sizes, table
from mixquant_onnx.report.quality import Interval, QualityData, interval, quality_data
from mixquant_onnx.report.quality_text import print_parts, profiles
from mixquant_onnx.report.sections import notes
from mixquant_onnx.report.sections.timing import Timing, timing_data
from mixquant_onnx.report.sections.timing import render as render_timing
from mixquant_onnx.verification.comparison import Comparison
from mixquant_onnx.verification.layer_differences import LayerDifference

FORMAT = 1
"""Version of the schema."""

_SHOWN = 5
"""Most values that are shown; --json has all of them."""


class LayerData(TypedDict):
    """A value inside of both models. Infinite numbers are "inf" and "-inf"."""

    name: str
    op: str
    sqnr_db: float | str | None
    cosine: float | None


class LimitData(TypedDict):
    """A limit as it was given, what was found, as text, and whether the limit is kept."""

    limit: str
    value: str
    kept: bool


class ComparisonData(TypedDict):
    """The schema of `compare --json`.

    `nbytes` of both models; `quality` of the second one's outputs; `layers` in the order of the graph, `first_apart`
    the first of them below 20 dB; `timing` is null with --no-benchmark.
    """

    format: int
    nbytes: list[int]
    quality: QualityData
    float_accuracy: float | None
    float_accuracy_interval: Interval | None
    layers: list[LayerData]
    first_apart: LayerData | None
    timing: Timing | None
    samples: int
    data: str
    origin: str
    notes: list[str]
    limits: list[LimitData]


def data(found: Comparison) -> ComparisonData:
    """What was compared."""
    apart = found.first_apart
    return {
        "format": FORMAT,
        "nbytes": list(found.nbytes),
        "quality": quality_data(found.quality, found.origin == "user"),
        "float_accuracy": None if found.float_accuracy is None else found.float_accuracy.value,
        "float_accuracy_interval": interval(found.float_accuracy),
        "layers": [_layer(layer) for layer in found.layers],
        "first_apart": None if apart is None else _layer(apart),
        "timing": timing_data(found.times, found.memory),
        "samples": found.samples,
        "data": found.data,
        "origin": found.origin,
        "notes": list(found.notes),
        "limits": [{"limit": one.limit, "value": one.value, "kept": one.kept} for one in found.limits],
    }


def render(console: Console, data: ComparisonData) -> None:
    """Print one screen; limits that are not kept go to stderr instead."""
    before, after = data["nbytes"]
    console.print(f"size: {' and '.join(sizes(before, after))} ({after / before:.1%})")
    if data["timing"] is not None:
        render_timing(console, data["timing"])
    rows = rows_text(data["samples"], data["data"])
    console.print(escape(f"the second model against the first, {rows}"))
    console.print(profiles([data["quality"]], data["float_accuracy"]))
    print_parts(data["quality"]["outputs"], console)
    if data["layers"]:
        _print_layers(console, data)
    notes.render(console, {"notes": data["notes"]})
    for limit in data["limits"]:
        if limit["kept"]:
            console.print(escape(limit_text(limit)))


def limit_text(limit: LimitData) -> str:
    """A limit as one line.

    Args:
        limit: The limit.

    Returns:
        Text without a line break.
    """
    return f"{limit['limit']}: {limit['value']}, {'kept' if limit['kept'] else 'not kept'}"


def _print_layers(console: Console, data: ComparisonData) -> None:
    worst = sorted(data["layers"], key=_order)[:_SHOWN]
    made = table("values inside, the worst first")
    for name in ("value", "operator", "SQNR", "cosine"):
        made.add_column(name, justify="left" if name in ("value", "operator") else "right")
    for layer in worst:
        cosine = "-" if layer["cosine"] is None else f"{layer['cosine']:.6f}"
        made.add_row(escape(short(layer["name"])), layer["op"], decibels(layer["sqnr_db"]), cosine)
    console.print(made)
    print_rest(console, len(data["layers"]), "value", _SHOWN)
    apart = data["first_apart"]
    if apart is None:
        console.print("all values inside have 20 dB or more against the first model's")
    else:
        console.print(f"they part at '{escape(apart['name'])}' ({apart['op']}): {decibels(apart['sqnr_db'])}")


def _order(layer: LayerData) -> float:
    value = layer["sqnr_db"]
    return float(value) if value is not None else -float("inf")


def _layer(layer: LayerDifference) -> LayerData:
    return {"name": layer.name, "op": layer.op, "sqnr_db": finite(layer.sqnr_db), "cosine": layer.cosine}
