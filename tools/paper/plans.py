"""Plans whose files take the same bytes: the same bits for all layers, the paper's rule, and budgets by each cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from benchmarks.rule import smallest_qem

import mixquant_onnx as mq
from mixquant_onnx.config.samples import DataOptions
from mixquant_onnx.config.stages import BudgetOptions, FormOptions, SearchOptions, SelectionOptions
from mixquant_onnx.data.preparation import prepare
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocation import Priced, price_all
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.planned import Planned, planned_with, size_of
from mixquant_onnx.planning.search import search
from mixquant_onnx.planning.size_budget import Added, added, plan_of_size
from mixquant_onnx.planning.workspace import Workspace
from paper.subjects import Subject

UNIFORM, RULE, DEFAULT = "uniform", "rule", "MixQuant"


class Plans:
    """The searches of one model, made once; `rows` of its data calibrate, all of them: others judge."""

    def __init__(self, one: Subject, rows: int) -> None:
        self.one = one
        self.data = ({one.input: one.calibration[:rows]},)
        self.judge = ({one.input: one.inputs[:8]},)
        self._budget = BudgetOptions(avg_bits=4.0)
        self._searched = search(model_io.load(one.path), SelectionOptions(), SearchOptions(method="mse"), FormOptions())

    @cached_property
    def _priced(self) -> Mapping[str, Priced]:
        """Minutes on a large model; the same bits for all, the rule and MixQuant do without."""
        data = DataOptions(data=self.data, eval_data=self.judge)
        split = prepare(self.loaded.model, data, selects=True)
        return {p.cost: p for p in price_all(self._searched, "auto", Workspace(split=split, effort="thorough"))}

    @cached_property
    def _added(self) -> Added:
        return added(self._searched)

    @property
    def loaded(self) -> model_io.Loaded:
        return self._searched.loaded

    @property
    def sites(self) -> Mapping[str, LocatedWeight]:
        return self._searched.sites

    @property
    def table(self) -> ErrorTable:
        return self._searched.table

    def cost(self, cost: str, name: str, scheme: Scheme) -> float:
        """What `scheme` of the weight `name` is said to cost."""
        return self._priced[cost].costs[name][scheme]

    def uniform(self, bits: float) -> dict[str, Scheme]:
        """Between two widths, the wider and the narrower in turn, in the order of the graph."""
        widths = (math.ceil(bits), math.floor(bits))
        return {
            name: next(c.scheme for c in errors.candidates if c.scheme.bits == widths[place % 2])
            for place, (name, errors) in enumerate(self.table.items())
        }

    def at(self, bits: float, names: Sequence[str]) -> dict[str, Plan]:
        """The plans of `names` whose file is at most that of uniform `bits`: uniform, rule, a cost, or MixQuant, which
        is what the product does by default (the plan that does best on rows held back)."""
        even = self._planned(self.uniform(bits))
        limit = size_of(even)
        made: dict[str, Plan] = {}
        for name in names:
            if name == UNIFORM:
                made[name] = even.plan
            elif name == RULE:
                made[name] = self._rule(limit)
            elif name == DEFAULT:
                given = {"data": self.data, "eval_data": self.judge}
                made[name] = mq.quantize(self.one.path, max_size=f"{limit}B", verify=False, **given).plan
            else:
                made[name] = plan_of_size(self._priced[name], self._budget, f"{limit}B", self._added).plan
        return made

    def _rule(self, limit: int) -> Plan:
        """The rule at the smallest QEM whose file is at most `limit` bytes."""
        found = smallest_qem(self.table, lambda chosen: size_of(self._planned(chosen)) <= limit, 400)
        return self._planned(found).plan

    def _planned(self, chosen: Mapping[str, Scheme]) -> Planned:
        return planned_with(self._searched, chosen, self._budget, "budget")

    def run(self, plan: Plan, method: str, seed: int = 0, iterations: int = 500) -> mq.RunResult:
        """`plan` with all weights quantized by `method`; methods without data round to nearest."""
        sites = {name: replace(scheme, method=method) for name, scheme in plan.sites.items()}
        given: dict[str, Any] = {}
        if method not in ("minmax", "mse"):
            given = {"data": self.data, "eval_data": self.judge, "seed": seed, "iterations": iterations}
        return mq.apply_plan(
            self.one.path, replace(plan, sites=sites), verify=False, rounding="nearest" if not given else "compensated",
            **given,
        )  # fmt: skip
