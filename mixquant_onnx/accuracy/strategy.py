"""How an accuracy target is searched for: first on plans put together from the table, then on finished files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.accuracy.bisection import MOST_TRIES, Verdict, bisect, first_bits
from mixquant_onnx.accuracy.drafts import Drafts, plan_at
from mixquant_onnx.accuracy.search import Prober, least_bits
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.planning.allocation import Priced
from mixquant_onnx.planning.selection import Entry, Judge, finishing_seconds, ranked
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.runtime.session import RuntimeFailure

_FEWEST_TRIES = 6
"""Trials after which the bits of one sensitivity are known to 3 %, between 2 and 4 bits. Where there are no more, only
the best sensitivity is tried.
"""

_SECONDS = 60.0
"""CPU seconds that more trials than these may take in all, as estimated."""

_TURNS = 6
"""Plans that are judged to translate an error into bits; each halves the interval."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Strategy:
    """Searches for the fewest bits that meet a target.

    Attributes:
        rivals: Costs by several sensitivities.
        target: The accuracy target.
        work: The samples, and where results are kept.
        progress: Called while plans are compared.
    """

    rivals: Sequence[Priced]
    target: AccuracyOptions
    work: Workspace
    progress: Progress = quiet

    def __call__(self, prober: Prober) -> None:
        """Run the trials.

        Args:
            prober: Runs and remembers finished files.

        Raises:
            MixquantError: A trial fails.
        """
        least = least_bits(self.rivals[0])
        entries, guess, tries = self._ranked(first_bits(least)), None, MOST_TRIES
        known = self.work.origin not in (None, "noise") and bool(np.isfinite(entries[0].noise))
        if known and self.work.effort != "thorough":
            tries = min(max(int(_SECONDS / finishing_seconds(self.rivals[0], self.work)), _FEWEST_TRIES), MOST_TRIES)
            drafted = tries < MOST_TRIES and self.target.judged_by_data
            guess = self._guess(entries[0].priced, least, prober) if drafted else None
        if guess is not None:
            entries = self._ranked(guess)
        tried = entries if tries == MOST_TRIES else entries[:1]
        bisect([entry.priced for entry in tried], prober.probe, least, guess, tries)

    def _guess(self, priced: Priced, least: float, prober: Prober) -> float | None:
        """Bits at which a finished file is believed to meet the target, by plans put together from the table."""
        assert self.work.split is not None
        judge = Judge(priced, self.work, self.progress)
        drafts = Drafts(priced.searched.loaded.float_model, self.target, judge.solved, self.work.split.evaluation)
        safe = _fewest(priced, drafts, least)
        prober.drafts = drafts.count
        return None if safe is None else _translated(priced, judge, safe, least)

    def _ranked(self, bits: float) -> list[Entry]:
        """The sensitivities, the best at a number of bits first."""
        if len(self.rivals) == 1 or self.work.split is None:
            return [Entry(priced=p, planned=plan_at(p, bits), noise=0.0) for p in self.rivals[:1]]
        return ranked(self.rivals, lambda priced: plan_at(priced, bits), self.work, self.progress)


def _fewest(priced: Priced, drafts: Drafts, least: float) -> float | None:
    """The fewest bits at which a draft meets the target; None where none does, or drafts do not run."""
    kept: list[float] = []

    def probe(one: Priced, bits: float) -> Verdict:
        verdict = drafts.probe(one, bits)
        kept.extend([bits] if verdict.kept else [])
        return verdict

    try:
        bisect([priced], probe, least)
    except RuntimeFailure:
        return None
    return min(kept, default=None)


def _translated(priced: Priced, judge: Judge, safe: float, least: float) -> float:
    """Bits at which a finished plan is as exact as a draft of `safe` bits, by what finishing gains at `safe`."""
    plan = plan_at(priced, safe)
    draft, finished = judge.from_table(plan), judge.in_order(plan)
    if not (np.isfinite([draft, finished]).all() and 0 < finished < draft):
        return safe
    allowed = draft * draft / finished
    low, high = least, safe
    for _ in range(_TURNS):
        middle = (low * high) ** 0.5
        if judge.from_table(plan_at(priced, middle)) <= allowed:
            high = middle
        else:
            low = middle
    return high
