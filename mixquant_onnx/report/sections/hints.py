"""Section: what else would help this model."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.export.activations import rounds_activations
from mixquant_onnx.quantization.activations.placement import PRODUCTS, place
from mixquant_onnx.report.inputs import Run

_MOST = 0.5
"""Share of the weights' elements in layers that could run on integers, from which on that is said."""


class Hints(TypedDict):
    """The key of this section."""

    hints: list[str]


def data(run: Run) -> Hints | None:
    """Hints for a run; None for a plan."""
    if run.result is None:
        return None
    found = _integers(run) if run.result.form.integer is None else None
    return {"hints": [] if found is None else [found]}


def render(console: Console, data: Hints) -> None:
    """Print one line per hint."""
    for hint in data["hints"]:
        console.print(f"hint: {escape(hint)}")


def _integers(run: Run) -> str | None:
    """That layers could run on integers; None where too few could, or they do."""
    planned = run.planned
    model, sites = planned.loaded.float_model, {name: planned.sites[name] for name in run.plan.sites}
    if rounds_activations(model):
        return None
    weights = set(place(model, sites, rows={}).layers.values())
    elements = sum(sites[name].site.elements for name in weights)
    if elements < _MOST * sum(located.site.elements for located in sites.values()):
        return None
    products = all(use.op in PRODUCTS for name in weights for use in sites[name].site.uses)
    option = "--activations dynamic (or 8, with --data)" if products else "--activations 8 with --data"
    gain = "0.4 to 0.8 of float's time on the nets of docs/research/speed.md"
    return f"{option} runs {len(weights)} of {len(sites)} layers on 8-bit integers: {gain}"
