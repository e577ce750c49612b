"""Section: what else would help this model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from rich.console import Console
from rich.markup import escape

from mixquant_onnx.export.activations import rounds_activations
from mixquant_onnx.model.graph_text import text_nbytes
from mixquant_onnx.numerics.granularity import ALL_BITS
from mixquant_onnx.quantization.activations.placement import PRODUCTS, place
from mixquant_onnx.report.inputs import Run

_MOST = 0.5
"""Share of the weights' elements in layers that could run on integers, from which on that is said."""


_MUCH_LOSS, _FEW_BYTES = 0.25, 0.1
"""Shares of the loss and of the weights' bytes, from which and up to which a weight is named."""

_MUCH_TEXT = 0.2
"""Share of the file that names take, from which on that is said."""


class Hints(TypedDict):
    """The key of this section."""

    hints: list[str]


def data(run: Run) -> Hints | None:
    """Hints for a run; None for a plan."""
    if run.result is None:
        return None
    found = [*_sensitive(run), *_text(run)]
    integers = _integers(run) if run.result.form.integer is None else None
    return {"hints": found if integers is None else [*found, integers]}


def render(console: Console, data: Hints) -> None:
    """Print one line per hint."""
    for hint in data["hints"]:
        console.print(f"hint: {escape(hint)}")


def _sensitive(run: Run) -> Iterator[str]:
    """The weight with a large share of the loss and a small one of the bytes."""
    found, stored = run.loss_shares, {} if run.result is None else run.result.rewritten.nbytes
    if found is None or not stored:
        return
    shares = found.shares
    name = max(shares, key=lambda one: shares[one])
    part, widest = stored[name] / sum(stored.values()), run.plan.sites[name].bits == max(ALL_BITS)
    if shares[name] >= _MUCH_LOSS and part <= _FEW_BYTES and not widest:
        told = f"'{name}' is {shares[name]:.0%} of the estimated loss and {part:.1%} of the weights' bytes"
        yield f"{told}: give it more bits in the file of --plan and replay that with --apply"


def _text(run: Run) -> Iterator[str]:
    """That names and the like take much of the file."""
    if run.result is None:
        return
    share = text_nbytes(run.result.stored) / max(run.result.nbytes_after, 1)
    if share >= _MUCH_TEXT:
        yield f"names, notes and declared shapes take {share:.0%} of the file: a model with short names is smaller"


def _integers(run: Run) -> str | None:
    """That layers could run on integers; None where too few could, or they do."""
    planned = run.planned
    model, sites = planned.loaded.float_model, {name: planned.sites[name] for name in run.plan.sites}
    if rounds_activations(model) or planned.form.fused == "packed":
        return None
    weights = set(place(model, sites, rows={}).layers.values())
    elements = sum(sites[name].site.elements for name in weights)
    if elements < _MOST * sum(located.site.elements for located in sites.values()):
        return None
    products = all(use.op in PRODUCTS for name in weights for use in sites[name].site.uses)
    option = "--activations dynamic (or 8, with --data)" if products else "--activations 8 with --data"
    gain = "0.4 to 0.8 of float's time on the nets of docs/research/speed.md"
    return f"{option} runs {len(weights)} of {len(sites)} layers on 8-bit integers: {gain}"
