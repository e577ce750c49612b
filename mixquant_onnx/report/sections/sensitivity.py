"""Section: what each weight costs the network. It is only in the summary, where a report or --json was asked for."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.planning.sensitivity import weight_error
from mixquant_onnx.planning.sensitivity.measurement import Measurement
from mixquant_onnx.planning.sensitivity.table import WEIGHT_ERROR
from mixquant_onnx.report.inputs import Run


class SensitivityData(TypedDict):
    """`cost`: name of the sensitivity. `shares`: of each weight in the summed cost of the plan, from 0 to 1."""

    cost: str
    shares: dict[str, float]


class Sensitivities(TypedDict):
    """The key of this section."""

    sensitivity: SensitivityData


def data(run: Run) -> Sensitivities | None:
    """The shares, by the sensitivity that made the plan or by the data-free one; None where no details are wanted."""
    if not run.detail or not run.plan.sites:
        return None
    planned, name = run.planned, run.planned.cost
    costs = planned.costs
    if not costs:
        table = {name: planned.table[name] for name in run.plan.sites}
        name, costs = WEIGHT_ERROR, weight_error.measure(Measurement(table, planned.loaded.model, planned.sites))
    found = {weight: costs[weight][scheme] for weight, scheme in run.plan.sites.items()}
    total = sum(found.values())
    return {"sensitivity": {"cost": name, "shares": {w: cost / total if total else 0.0 for w, cost in found.items()}}}


def render(console: Console, data: Sensitivities) -> None:
    """Print nothing: the shares are in the report's figures and hints."""
