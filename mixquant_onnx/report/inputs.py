"""Inputs of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.sensitivity import weight_error
from mixquant_onnx.planning.sensitivity.measurement import Measurement
from mixquant_onnx.planning.sensitivity.table import WEIGHT_ERROR
from mixquant_onnx.result import RunResult
from mixquant_onnx.tradeoff.point import Point
from mixquant_onnx.tradeoff.reference import Reference


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossShares:
    """What each weight costs the network.

    Attributes:
        cost: Name of the sensitivity.
        shares: Share of each weight in the summed cost of the plan, from 0 to 1.
    """

    cost: str
    shares: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A plan and its result.

    Attributes:
        planned: The plan with the weights and their errors.
        result: The written model; None where the plan was not executed (`inspect`).
        blocks: Whether to show the blocks of the graph (`inspect --blocks`).
        detail: Whether histograms and sensitivities are wanted, which take a pass over the weights.
        options: The options that were given, by keyword.
    """

    planned: Planned
    result: RunResult | None = None
    blocks: bool = False
    detail: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan as executed, which may give weights more bits than planned."""
        return self.planned.plan if self.result is None else self.result.plan

    @cached_property
    def loss_shares(self) -> LossShares | None:
        """By the sensitivity that made the plan, or by the data-free one; None where no details are wanted."""
        if not self.detail or not self.plan.sites:
            return None
        planned, cost, costs = self.planned, self.planned.cost, self.planned.costs
        if not costs:
            table = {name: planned.table[name] for name in self.plan.sites}
            cost, costs = WEIGHT_ERROR, weight_error.measure(Measurement(table, planned.loaded.model, planned.sites))
        found = {name: costs[name][scheme] for name, scheme in self.plan.sites.items()}
        total = sum(found.values())
        return LossShares(cost=cost, shares={name: own / total if total else 0.0 for name, own in found.items()})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sweep:
    """Many plans of one model.

    Attributes:
        points: The plans.
        nbytes_before: Size of the float model in bytes.
        reference: What they are compared with.
    """

    points: Sequence[Point]
    nbytes_before: int
    reference: Reference = field(default_factory=Reference)
