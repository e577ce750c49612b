"""Plans that take the same bytes: the same bits for all layers, the paper's rule, and budgets by each cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.accuracy import rule_within

import mixquant_onnx as mq
from mixquant_onnx.allocation import plan_within, price_all
from mixquant_onnx.graph import model_io
from mixquant_onnx.measure import SearchOptions
from mixquant_onnx.options import Options
from mixquant_onnx.types import BitPlan, ErrorTable, Scheme
from paper.subjects import Subject

UNIFORM, RULE = "uniform", "rule"


class Plans:
    """The searches of one model, made once; `rows` of its data calibrate."""

    def __init__(self, one: Subject, rows: int) -> None:
        self.one = one
        self.data = ({one.input: one.calibration[:rows]},)
        self._options = Options(
            avg_bits=4.0, data=self.data, search=SearchOptions(method="mse"), rounding="nearest", verify=False
        )
        self._priced = {p.cost: p for p in price_all(model_io.load(one.path), self._options)}

    @property
    def table(self) -> ErrorTable:
        return next(iter(self._priced.values())).searched.table

    def cost(self, cost: str, name: str, scheme: Scheme) -> float:
        """What `scheme` of the weight `name` is said to cost."""
        return self._priced[cost].costs[name][scheme]

    def uniform(self, bits: float) -> dict[str, Scheme]:
        """Between two widths, the wider and the narrower in turn, in the order of the graph."""
        widths = (math.ceil(bits), math.floor(bits))
        return {
            name: next(c.scheme for c in errors.cells if c.scheme.bits == widths[place % 2])
            for place, (name, errors) in enumerate(self.table.items())
        }

    def at(self, bits: float, names: Sequence[str]) -> dict[str, BitPlan]:
        """The plans of `names` (uniform, rule, or a cost) that take at most the bytes of uniform `bits`."""
        even = self.uniform(bits)
        limit = sum(next(c.nbytes for c in e.cells if c.scheme == even[n]) for n, e in self.table.items())
        made: dict[str, BitPlan] = {}
        for name in names:
            if name == UNIFORM:
                made[name] = BitPlan(sites=even)
            elif name == RULE:
                made[name] = BitPlan(sites=rule_within(self.table, limit))
            else:
                priced = self._priced[name]
                made[name] = plan_within(priced, self._options, priced.choices(), limit).plan
        return made

    def competed(self, bits: float) -> BitPlan:
        """What the product does at these bytes by default: the plan that does best on rows held back."""
        size = mq.apply_plan(
            self.one.path, self.at(bits, [UNIFORM])[UNIFORM], verify=False, rounding="nearest"
        ).nbytes_after
        data = [dict(feed) for feed in self.data]
        return mq.quantize(self.one.path, max_size=f"{size}B", data=data, verify=False).plan

    def run(self, plan: BitPlan, method: str, seed: int = 0, iterations: int = 500) -> mq.RunResult:
        """`plan` with all weights quantized by `method`; methods without data round to nearest."""
        sites = {name: replace(scheme, method=method) for name, scheme in plan.sites.items()}
        given: dict[str, Any] = {}
        if method not in ("minmax", "mse"):
            given = {"data": [dict(feed) for feed in self.data], "seed": seed, "iterations": iterations}
        return mq.apply_plan(
            self.one.path, replace(plan, sites=sites), verify=False, rounding="nearest" if not given else "compensated",
            **given,
        )  # fmt: skip
