"""Which cost a budget is spent by: each makes its plan, and the plan that does best on rows for selection is taken.

No cost is the best on every model (docs/accuracy.md): a layer's measured effect does not know what later layers make
up for, and a data-free one knows no effects. One run of each plan tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.data.dataset import Data, DataSplit, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.substitute import editable_copy, replace_weight
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.allocation import Priced, disagreements
from mixquant_onnx.planning.bounds import quantize_plan
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.runtime.session import RuntimeFailure, Session

MOST_ROWS = 128
"""Rows that decide, at most."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry:
    """A plan, the cost that made it, and the noise of its outputs as a share (inf where it did not run)."""

    priced: Priced
    planned: Planned
    noise: float


def ranked(
    rivals: Sequence[Priced],
    make: Callable[[Priced], Planned],
    split: DataSplit,
    compensated: bool,
    progress: Progress = quiet,
) -> list[Entry]:
    """An entry for each of `rivals`, the least noise first; quantized on the calibration rows, judged on those for
    selection."""
    loaded = rivals[0].searched.loaded
    fit, held = split.calibration, thinned(split.selection, MOST_ROWS)
    try:
        reference = run_all(Session(loaded.model), held)
    except RuntimeFailure:
        return [Entry(priced=priced, planned=make(priced), noise=float("inf")) for priced in rivals[:1]]
    entries: list[Entry] = []
    for position, priced in enumerate(rivals):
        planned = make(priced)
        same = next((e.noise for e in entries if e.planned.plan.sites == planned.plan.sites), None)
        noise = noise_of(planned, fit, held, reference, compensated) if same is None else same
        entries.append(Entry(priced=priced, planned=planned, noise=noise))
        progress("compare plans", position + 1, len(rivals))
    return sorted(entries, key=lambda entry: entry.noise)


def winner(entries: Sequence[Entry], budget: BudgetOptions) -> Planned:
    """The plan of the first of `entries`, with notes on how the others fared and where costs disagree.

    No absolute figure: the best of several on the same rows is too good to be true."""
    best = entries[0]
    if len({id(e.planned) for e in entries}) == 1:
        return best.planned
    others = ", ".join(f"{e.priced.cost} {_worse(best.noise, e.noise)}" for e in entries[1:])
    note = f"cost '{best.priced.cost}' does best on the rows for selection ({others})"
    return replace(best.planned, notes=(note, *disagreements(best.planned, best.priced, budget)))


def noise_of(planned: Planned, fit: Data, held: Data, reference: list[list[FloatArray]], compensated: bool) -> float:
    """Noise of the outputs on `held`, as a share, quantized on `fit` by surrogates; inf where it does not run."""
    sites = {name: surrogate(scheme) for name, scheme in planned.plan.sites.items()}
    planned = replace(planned, plan=replace(planned.plan, sites=sites))
    return noise_with(planned, quantize_plan(planned, fit, compensated).quantized, held, reference)


def noise_with(planned: Planned, quantized: Mapping[str, Quantized], held: Data, reference: Outputs) -> float:
    """Noise of the outputs on `held` with the weights `quantized`, as a share; inf where it does not run.

    `reference`: what the float model gives there.
    """
    model, places = editable_copy(planned.loaded.model, planned.sites)
    for name, q in quantized.items():
        replace_weight(places[name], q)
    try:
        noise = relative_noise(reference, run_all(Session(model), held))
    except RuntimeFailure:
        return float("inf")
    return noise if np.isfinite(noise) else float("inf")


def _worse(best: float, noise: float) -> str:
    if not np.isfinite(noise) or best == noise:
        return "as good" if best == noise else "did not run"
    return f"{10 * np.log10(noise / best):.1f} dB less" if best > 0 else "less"
