"""Selection of the sensitivity: each makes a plan, and the plan with the least noise on held-out samples is used.

No sensitivity is best on every model (docs/research/accuracy.md): the measured effect of a layer ignores that later
layers compensate for it, and a data-free one ignores effects altogether. Plans are put together from the table and run
once; the best of them are then quantized in the order of the graph, where layers compensate for those before, and run
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.data.dataset import Data, DataSplit, rows_of, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.split import batched_by
from mixquant_onnx.data.work import multiplications
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.numerics.metrics import typical_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.allocation import Priced, disagreements
from mixquant_onnx.planning.digests import digest
from mixquant_onnx.planning.output_distance import Divergence
from mixquant_onnx.planning.plan_outputs import outputs_with, surrogates_of
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.solved_table import SolvedTable, solve_table
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.methods import is_calibrated, surrogate
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.next_tokens import tokens_of_model

_MOST_ROWS = (32, 16)
"""Most samples of either kind for the comparison, and where a sample takes more than `_LARGE`; bounds time."""

_LARGE = 1e9
"""Multiplications of a sample above which fewer samples are run."""

_FINALISTS = (2, 6)
"""Fewest and most plans that are quantized in the order of the graph to be compared."""

_FINAL_SECONDS = 10.0
"""CPU seconds that this may take in all, by an estimate: a measured time would make results depend on the load."""

_SECONDS = (2.5e-6, 5e-11)
"""CPU seconds of such a quantization for each weight, and for each multiplication of the runs
(docs/research/selection.md)."""

_NEAR_DB = 6.0
"""Decibels behind the best up to which a plan may turn out to be the best: later layers make up for more of some plans
than of others, and plans 5 dB behind came out best on the models of docs/research/selection.md.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry:
    """A plan in the comparison.

    Attributes:
        priced: The sensitivity by which it was made.
        planned: The plan.
        noise: Noise-to-signal ratio of its outputs, or their divergence; infinite where it did not run.
        in_nats: Whether `noise` is the divergence of the next token, in nats.
    """

    priced: Priced
    planned: Planned
    noise: float
    in_nats: bool = False


def ranked(
    rivals: Sequence[Priced], make: Callable[[Priced], Planned], work: Workspace, progress: Progress = quiet
) -> list[Entry]:
    """Compare plans of several sensitivities.

    Args:
        rivals: Costs of each sensitivity.
        make: Makes the plan for given costs.
        work: Weights are quantized on the calibration samples, plans evaluated on those for selection.
        progress: Called after each plan.

    Returns:
        One entry per sensitivity, the least noise first.
    """
    try:
        judge = Judge(rivals[0], work, progress)
    except RuntimeFailure:
        return [Entry(priced=priced, planned=make(priced), noise=float("inf")) for priced in rivals[:1]]
    entries: list[Entry] = []
    for position, priced in enumerate(rivals):
        planned = make(priced)
        same = next((e.planned for e in entries if e.planned.plan.sites == planned.plan.sites), planned)
        entries.append(Entry(priced=priced, planned=planned, noise=judge.from_table(same), in_nats=judge.in_nats))
        progress("compare plans", position + 1, len(rivals))
    entries.sort(key=lambda entry: entry.noise)
    return _finals(entries, judge, work, progress)


def _finals(entries: list[Entry], judge: Judge, work: Workspace, progress: Progress) -> list[Entry]:
    """The best of `entries` compared once more as they will be finished; the others follow them."""
    distinct = list({id(first): first for e in entries for first in [first_of(entries, e)]}.values())
    most = int(min(max(_FINAL_SECONDS / finishing_seconds(entries[0].priced, work), _FINALISTS[0]), _FINALISTS[1]))
    near = [e for e in distinct if e.noise <= entries[0].noise * 10 ** (_NEAR_DB / 10)]
    chosen = distinct if work.effort == "thorough" else near[:most]
    calibrated = any(is_calibrated(s.method) for e in chosen for s in e.planned.plan.sites.values())
    if work.effort == "fast" or len(chosen) < 2 or not calibrated:
        return entries
    noise = {}
    for position, entry in enumerate(chosen):
        noise[id(entry)] = judge.in_order(entry.planned)
        progress("compare finished plans", position + 1, len(chosen))
    known = [(e, noise.get(id(first_of(entries, e)))) for e in entries]
    finals = sorted((replace(e, noise=found) for e, found in known if found is not None), key=lambda e: e.noise)
    return finals + [e for e, found in known if found is None]


def finishing_seconds(priced: Priced, work: Workspace) -> float:
    """Estimate the CPU seconds of quantizing a plan in the order of the graph.

    Args:
        priced: Gives the model and its weights.
        work: The samples for calibration.

    Returns:
        The estimate, which depends on shapes alone.
    """
    assert work.split is not None
    products = 2 * work.split.calibration.rows * _products(priced.searched.loaded.model, work.split)
    return max(_SECONDS[0] * priced.elements + _SECONDS[1] * products, 1e-9)


def _products(model: ModelProto, split: DataSplit) -> float:
    """Multiplications of one sample."""
    data, first = split.calibration, split.calibration.feeds[0]
    shapes = {name: np.shape(value) for name, value in first.items() if isinstance(value, np.ndarray)}
    return multiplications(model, shapes) / max(rows_of(first, data.axes), 1)


def first_of(entries: Sequence[Entry], entry: Entry) -> Entry:
    """The first entry with the same plan.

    Args:
        entries: Entries that hold `entry`.
        entry: One of them.

    Returns:
        The entry.
    """
    return next(e for e in entries if e.planned.plan.sites == entry.planned.plan.sites)


class Judge:
    """Noise of plans on the samples for selection; what is kept already is not run again.

    Args:
        priced: Gives the model and the candidates.
        work: The samples, and where results are kept.
        progress: Called where the table is not yet solved.

    Raises:
        RuntimeFailure: The model does not run.
    """

    def __init__(self, priced: Priced, work: Workspace, progress: Progress = quiet) -> None:
        assert work.split is not None
        searched = priced.searched
        model, sites, fit = searched.loaded.model, searched.sites, work.split.calibration
        most = _MOST_ROWS[_products(model, work.split) > _LARGE]
        self._work, self._fit, self._rows = work, fit, single_rows(work.split, most)
        self._reference = run_all(Session(searched.loaded.float_model), self._rows)
        tokens = tokens_of_model(searched.loaded.float_model, self._rows)
        self._divergence: Divergence | None = None
        if tokens is not None:
            self._divergence = Divergence(found=tokens, feeds=self._rows.feeds, reference=self._reference)
        self.solved: SolvedTable = solve_table(searched.table, model, sites, fit, work, progress)

    def from_table(self, planned: Planned) -> float:
        """Typical noise of a plan put together from the table; infinite where it does not run."""
        return self._kept("judged", planned, lambda: self.solved.tensors(planned.plan.sites))

    def in_order(self, planned: Planned) -> float:
        """The same, quantized in the order of the graph."""
        known, quick = self.solved.sample_weights, self._work.effort != "thorough"
        return self._kept(
            f"judged in order, {'quick' if quick else 'finished'}",
            planned,
            lambda: surrogates_of(planned, self._fit, self._work.compensated, known, quick).quantized,
        )

    @property
    def in_nats(self) -> bool:
        """Whether plans are compared by the divergence of the next token, and not by noise."""
        return self._divergence is not None

    def _kept(self, kind: str, planned: Planned, quantize: Callable[[], Mapping[str, QuantizedTensor]]) -> float:
        key = digest(*(f"{name} {surrogate(scheme)}" for name, scheme in sorted(planned.plan.sites.items())))
        kind = f"{kind}, in nats" if self.in_nats else kind
        found = self._work.table.get_json(kind, key)
        if found is None:
            outputs = outputs_with(planned, quantize(), self._rows)
            found = float("inf") if outputs is None else self._distance(outputs)
            self._work.table.put_json(kind, key, found)
        return float(found)

    def _distance(self, outputs: Outputs) -> float:
        divergence = self._divergence
        return typical_noise(self._reference, outputs) if divergence is None else divergence.mean(outputs)


def single_rows(split: DataSplit, most: int) -> Data:
    """Rows for selection and for calibration, each in a batch of its own where it can be.

    Those for calibration are rows that weights were fitted to, which favours no plan: all are fitted alike, and few
    rows decide badly.

    Args:
        split: The samples.
        most: Most of either kind.

    Returns:
        At most about twice as many.
    """
    parts = [thinned(batched_by(part, 1), most) for part in (split.selection, split.calibration)]
    same = split.selection is split.calibration
    return replace(parts[0], feeds=parts[0].feeds if same else parts[0].feeds + parts[1].feeds, labels=None)


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
    if len(entries) == 1:
        return best.planned
    others = ", ".join(f"{e.priced.cost} {_worse(best, e)}" for e in entries[1:])
    note = f"cost '{best.priced.cost}' does best on the rows that plans are compared on ({others})"
    return replace(best.planned, notes=(note, *disagreements(best.planned, best.priced, budget)))


def _worse(best: Entry, other: Entry) -> str:
    if not np.isfinite(other.noise) or best.noise == other.noise:
        return "as good" if best.noise == other.noise else "did not run"
    if best.noise <= 0:
        return "less"
    ratio = other.noise / best.noise
    return f"{ratio:.2f} times its KL" if best.in_nats else f"{10 * np.log10(ratio):.1f} dB less"
