"""From errors and costs to the scheme of each site: the rule, or one budget over the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from mixquant_onnx.config.stages import BudgetOptions, Cost
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import OptionError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators import qem as qem_rule
from mixquant_onnx.planning.allocators import safe
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.error_table import SiteErrors
from mixquant_onnx.planning.planned import Planned, planned_with
from mixquant_onnx.planning.search import Searched
from mixquant_onnx.planning.sensitivity import costs as measured
from mixquant_onnx.planning.sensitivity.costs import Costs
from mixquant_onnx.planning.sensitivity.interactions import made_up_for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Priced:
    """A search with the cost of every candidate: all that plans of any size are made from."""

    searched: Searched
    costs: Costs
    cost: str

    @property
    def elements(self) -> int:
        return sum(errors.elements for errors in self.searched.table.values())

    def choices(self, floats: bool = False) -> dict[str, list[Choice]]:
        """The candidates as a knapsack knows them; with `floats`, each site may also stay as it is at no cost."""
        made = {}
        for name, errors in self.searched.table.items():
            own = self.costs[name]
            made[name] = [Choice(scheme=c.scheme, cost=own[c.scheme], nbytes=c.nbytes) for c in errors.cells]
            if floats:
                size = self.searched.sites[name].source.tensor.ByteSize()
                made[name].append(Choice(scheme=None, cost=0.0, nbytes=size))
        return made

    @property
    def least_bytes(self) -> int:
        return sum(min(c.nbytes for c in errors.cells) for errors in self.searched.table.values())


def price(searched: Searched, cost: Cost, split: DataSplit | None, progress: Progress = quiet) -> Priced:
    """The sensitivity by which a budget is spent. For `auto` with the user's data: output balanced with energy.

    Raises:
        DataError: the model does not run on the data.
    """
    if cost != "auto" or split is None or split.fitting.origin != "user":
        return price_all(searched, cost, split, progress)[0]
    output = price_all(searched, "output", split, progress)[0]
    if output.cost != "output":
        return output
    found = measured.balanced(output.costs, by_energy(output.searched).costs)
    return replace(output, costs=found, cost="balanced")


def price_all(searched: Searched, cost: Cost, split: DataSplit | None, progress: Progress = quiet) -> list[Priced]:
    """At `cost`; for `auto` with the user's data at each that there is, on proxy inputs at those without runs of the
    network: energy and even."""
    loaded = searched.loaded
    measured_by_default = split is not None and split.fitting.origin == "user"
    chosen = cost if cost != "auto" or measured_by_default else "energy"
    if chosen == "energy" or split is None or not searched.table:
        by_proxies = cost == "auto" and split is not None and split.fitting.origin == "proxy"
        even = Priced(searched=searched, costs=measured.even(searched.table), cost="even")
        return [by_energy(searched), *([even] if by_proxies and searched.table else [])]
    sites = {name: searched.sites[name] for name in searched.table}
    fit, held = split.calibration, split.selection
    if cost == "hessian":
        seconds = Calibration(loaded.model, sites, fit).second_moments(list(sites))
        hessian = measured.hessian(searched.table, sites, seconds)
        return [Priced(searched=searched, costs=hessian, cost="hessian")]
    with threadpool_limits(1, "blas"):
        hessian, output = measured.output(searched.table, loaded.model, sites, fit, held, progress)
        found = {"output": output}
        if cost != "output":
            shares = made_up_for(searched.table, loaded.model, searched.sites, fit, held, progress)
            found["block"] = measured.block(output, shares)
    if cost != "auto":
        return [Priced(searched=searched, costs=found[cost], cost=cost)]
    found |= {"hessian": hessian, "even": measured.even(searched.table)}
    made = [Priced(searched=searched, costs=costs, cost=name) for name, costs in found.items()]
    return [*made, by_energy(searched)]


def by_energy(searched: Searched) -> Priced:
    """At the data-free cost."""
    return Priced(searched=searched, costs=measured.energy(searched.table, searched.sites), cost="energy")


def by_rule(searched: Searched, budget: BudgetOptions) -> Planned:
    """The rule, layer by layer: on its floor, or the paper's to the letter."""
    if budget.rule == "safe":
        return planned_with(searched, safe.allocate(searched.table, budget.qem), budget, "safe")
    return planned_with(searched, qem_rule.allocate(searched.table, budget.qem), budget, "qem")


_FAR = 2
"""Bits by which two costs must differ on a weight to be worth a word."""


def disagreements(planned: Planned, priced: Priced, budget: BudgetOptions) -> tuple[str, ...]:
    """The weights on which a measured cost and the data-free one differ most, at the same budget."""
    if priced.cost == "energy":
        return ()
    blind = plan_priced(by_energy(priced.searched), budget).plan.sites
    far = {
        name: (scheme.bits, blind[name].bits)
        for name, scheme in planned.plan.sites.items()
        if name in blind and abs(scheme.bits - blind[name].bits) >= _FAR
    }
    if not far:
        return ()
    name = max(far, key=lambda n: abs(far[n][0] - far[n][1]))
    ours, theirs = far[name]
    return (
        f"{len(far)} weights get {_FAR} bits more or less by cost '{priced.cost}' than by 'energy', "
        f"most '{name}': {ours} and {theirs}",
    )


def plan_priced(priced: Priced, budget: BudgetOptions) -> Planned:
    """The plan for the budget of `options`. Raises OptionError where no plan is so small."""
    if budget.avg_bits is not None:
        return plan_of_bits(priced, budget, budget.avg_bits)
    choices = priced.choices()
    table = priced.searched.table
    allowed = budget.qem * sum(_baseline_cost(table[name], priced.costs[name]) for name in table)
    return plan_of_choices(priced, budget, smallest_within_cost(choices, allowed), "qem-model")


def plan_of_bits(priced: Priced, budget: BudgetOptions, bits: float, floats: bool = False) -> Planned:
    """The least cost at `bits` bits a weight, all counted. Raises OptionError where no plan is so small."""
    limit = int(bits * priced.elements / 8 + 1e-6)
    if priced.least_bytes > limit:
        least = 8 * priced.least_bytes / max(priced.elements, 1)
        raise OptionError(
            f"--avg-bits {bits:g} is below the smallest possible, {least:.2f} with scales and zero points; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    return plan_of_choices(priced, budget, best_within_bytes(priced.choices(floats), limit))


def plan_of_choices(
    priced: Priced, budget: BudgetOptions, chosen: Mapping[str, Choice], allocator: str = "budget"
) -> Planned:
    """The plan in which each site is as it is `chosen`."""
    schemes = {name: choice.scheme for name, choice in chosen.items() if choice.scheme is not None}
    return planned_with(priced.searched, schemes, budget, allocator)


def _baseline_cost(errors: SiteErrors, own: Mapping[Scheme, float]) -> float:
    """The cost of plain int8: that of the candidate with the nearest QE, in proportion."""
    with_error = [cell for cell in errors.cells if cell.qe > 0]
    if not with_error or errors.baseline <= 0:
        return 0.0
    nearest = min(with_error, key=lambda cell: abs(cell.qe - errors.baseline))
    return own[nearest.scheme] * errors.baseline / nearest.qe
