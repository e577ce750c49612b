"""Section: what each weight costs the network. It is only in the summary, where a report or --json was asked for."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.report.inputs import Run


class SensitivityData(TypedDict):
    """`cost`: name of the sensitivity. `shares`: of each weight in the summed cost of the plan, from 0 to 1."""

    cost: str
    shares: dict[str, float]


class Sensitivities(TypedDict):
    """The key of this section."""

    sensitivity: SensitivityData


def data(run: Run) -> Sensitivities | None:
    """The shares; None where no details are wanted."""
    found = run.loss_shares
    return None if found is None else {"sensitivity": {"cost": found.cost, "shares": dict(found.shares)}}


def render(console: Console, data: Sensitivities) -> None:
    """Print nothing: the shares are in the report's figures and hints."""
