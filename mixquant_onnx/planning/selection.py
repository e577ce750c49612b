"""Selection of the sensitivity: each makes a plan, and the plan with the least noise on held-out samples is used.

No sensitivity is best on every model (docs/accuracy.md): the measured effect of a layer ignores that later layers
compensate for it, and a data-free one ignores effects altogether. One run of each plan decides.
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
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.allocation import Priced, disagreements
from mixquant_onnx.planning.bounds import quantize_plan
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.runtime.session import RuntimeFailure, Session

MOST_ROWS = 128
"""Most samples for the comparison; bounds time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry:
    """A plan in the comparison.

    Attributes:
        priced: The sensitivity by which it was made.
        planned: The plan.
        noise: Noise-to-signal ratio of its outputs; infinite where it did not run.
    """

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
    """Compare plans of several sensitivities.

    Args:
        rivals: Costs of each sensitivity.
        make: Makes the plan for given costs.
        split: Weights are quantized on the calibration samples, plans evaluated on those for selection.
        compensated: Whether rounding is bias-corrected.
        progress: Called after each plan.

    Returns:
        One entry per sensitivity, the least noise first.
    """
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
    """The best plan, with notes on the others and on where sensitivities disagree.

    The notes give no absolute SQNR: the best of several on the same samples is optimistic.

    Args:
        entries: Those of `ranked`.
        budget: The budget.

    Returns:
        The plan.
    """
    best = entries[0]
    if len({id(e.planned) for e in entries}) == 1:
        return best.planned
    others = ", ".join(f"{e.priced.cost} {_worse(best.noise, e.noise)}" for e in entries[1:])
    note = f"cost '{best.priced.cost}' does best on the rows for selection ({others})"
    return replace(best.planned, notes=(note, *disagreements(best.planned, best.priced, budget)))


def noise_of(planned: Planned, fit: Data, held: Data, reference: list[list[FloatArray]], compensated: bool) -> float:
    """Noise-to-signal ratio of the outputs of a plan, quantized by surrogates.

    Args:
        planned: The plan.
        fit: Samples for calibration.
        held: Samples for evaluation.
        reference: Outputs of the float model on `held`.
        compensated: Whether rounding is bias-corrected.

    Returns:
        The ratio; infinite where the model does not run.
    """
    sites = {name: surrogate(scheme) for name, scheme in planned.plan.sites.items()}
    planned = planned.with_sites(sites)
    return noise_with(planned, quantize_plan(planned, fit, compensated).quantized, held, reference)


def noise_with(planned: Planned, quantized: Mapping[str, QuantizedTensor], held: Data, reference: Outputs) -> float:
    """Noise-to-signal ratio of the outputs with given quantized weights.

    Args:
        planned: Gives the model.
        quantized: The weights by name.
        held: Samples for evaluation.
        reference: Outputs of the float model on `held`.

    Returns:
        The ratio; infinite where the model does not run.
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
