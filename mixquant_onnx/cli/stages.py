"""The stages of a run, by its options: for a progress line that tells how many there are, and the time left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from mixquant_onnx.config.config import Config
from mixquant_onnx.planning.allocation import costs_measured
from mixquant_onnx.planning.sensitivity.table import NETWORK_OUTPUT, SENSITIVITIES
from mixquant_onnx.quantization.methods import is_calibrated

Command = Literal["quantize", "inspect", "sweep", "replay"]
"""What runs; replay: with --apply."""

SHARES: Mapping[str, float] = {
    "search": 0.11,
    "solve layers": 0.15,
    "measure layers": 0.08,
    "measure pairs": 0.5,
    "compare plans": 0.07,
    "compare finished plans": 0.31,
    "quantize": 0.18,
    "save": 0.004,
    "verify": 0.02,
}
"""Share of each stage in the CPU time of a run with --avg-bits 4 and data.

Source: medians of ResNet-20, MobileNetV2 and the recognition of PP-OCRv4, on two processors. Pairs, which only
--effort thorough measures: by their ratio to the search on ResNet-20.
"""


def stages_of(config: Config, command: Command, origin: str | None, method: str = "minmax") -> tuple[str, ...]:
    """The stages that a run reports, in order.

    Some may be left out: what --table keeps is not measured again, a comparison of one plan takes no time. With an
    accuracy target the last ones are repeated.

    Args:
        config: The options.
        command: What runs.
        origin: Where the samples come from (`Workspace.origin`); None without samples.
        method: The method that the samples allow.

    Returns:
        Names of stages.
    """
    planning = () if command == "replay" else _planning(config, command, origin, method)
    return ("search", *planning, *_finishing(config, command))


def _finishing(config: Config, command: Command) -> Sequence[str]:
    verified = ("verify",) if config.checks.verify else ()
    if command == "inspect":
        return ()
    return ("sweep",) if command == "sweep" else ("quantize", "save", *verified)


def _planning(config: Config, command: Command, origin: str | None, method: str) -> Iterator[str]:
    if config.by_layer and command != "sweep":
        return
    goal = config.accuracy.wanted or config.budget.avg_bits is not None or config.budget.max_size is not None
    compares = goal and command != "sweep"
    names = costs_measured(config.budget.cost, origin, config.work.effort)
    if not compares and config.budget.cost == "auto" and origin == "user":
        names = [NETWORK_OUTPUT]
    several = compares and len(names) > 1
    rows = [SENSITIVITIES[name] for name in names]
    if several or any(row.needs_rows for row in rows):
        yield "solve layers"
    if any(row.runs != "none" for row in rows):
        yield "measure layers"
    if any(row.runs == "pairs" for row in rows):
        yield "measure pairs"
    if several:
        yield "compare plans"
        if config.work.effort != "fast" and is_calibrated(method):
            yield "compare finished plans"


class TimeLeft:
    """An estimate of the time that a run still takes: its stages take time by `SHARES`, scaled by the time so far.

    Args:
        stages: All stages of the run; of others nothing is known.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = list(stages) if all(stage in SHARES for stage in stages) else []
        self._seen: list[str] = []

    def after(self, stage: str, done: int, total: int, seconds: float) -> float | None:
        """The estimate at a report of progress.

        Args:
            stage: The stage.
            done: Steps of it that are done.
            total: All its steps.
            seconds: Time that the run has taken so far.

        Returns:
            Seconds; None where there is too little to go by.
        """
        if stage not in self._stages:
            return None
        place, now = self._stages.index(stage), SHARES[stage] * min(done / max(total, 1), 1)
        self._seen += [stage] if stage not in self._seen else []
        past = sum(SHARES[one] for one in self._seen if self._stages.index(one) < place) + now
        left = sum(SHARES[one] for one in self._stages[place:]) - now
        if seconds < _FEWEST_SECONDS or past < _LEAST_SHARE * (past + left):
            return None
        return seconds * left / past


_FEWEST_SECONDS = 2.0
"""Time that a run has taken before there is an estimate of the rest."""

_LEAST_SHARE = 0.05
"""Share of a run before there is an estimate of the rest."""
