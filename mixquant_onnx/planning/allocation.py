"""From errors and costs to the scheme of each weight: by the rule, or by one budget over the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from mixquant_onnx.config.stages import BudgetOptions, Effort
from mixquant_onnx.errors import OptionError, counted
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.numerics.granularity import ALL_BITS
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.allocators.qem import unmet
from mixquant_onnx.planning.allocators.rules import BY_SCOPE, rule
from mixquant_onnx.planning.error_table import ErrorRow
from mixquant_onnx.planning.planned import Planned, planned_with
from mixquant_onnx.planning.search import Searched
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.planning.sensitivity.table import BALANCED, KL, NETWORK_OUTPUT, SENSITIVITIES, WEIGHT_ERROR, balanced
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.verification.next_tokens import tokens_of_model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Priced:
    """A search with the cost of every candidate, from which plans of any size are made.

    Attributes:
        searched: The weights and the errors of their candidates.
        costs: Cost of each candidate of each weight.
        cost: Name of the sensitivity.
    """

    searched: Searched
    costs: Costs
    cost: str

    @property
    def elements(self) -> int:
        """Number of weights in all tensors of the table."""
        return sum(errors.elements for errors in self.searched.table.values())

    def choices(self, floats: bool = False) -> dict[str, list[Choice]]:
        """The candidates in the form of the knapsack.

        Args:
            floats: Whether each tensor may also stay float, at no cost.

        Returns:
            Choices by the name of the weight.
        """
        made = {}
        for name, errors in self.searched.table.items():
            own = self.costs[name]
            made[name] = [Choice(scheme=c.scheme, cost=own[c.scheme], nbytes=c.nbytes) for c in errors.candidates]
            if floats:
                size = self.searched.sites[name].source.tensor.ByteSize()
                made[name].append(Choice(scheme=None, cost=0.0, nbytes=size))
        return made

    @property
    def least_bytes(self) -> int:
        """Bytes of the smallest plan."""
        return sum(min(c.nbytes for c in errors.candidates) for errors in self.searched.table.values())


def price(searched: Searched, cost: str, work: Workspace, progress: Progress = quiet) -> Priced:
    """Measure the sensitivity by which a budget is spent.

    For `auto` with the user's samples: network output balanced with weight error, and where a model gives the next
    token, its divergence (better at 5 of 6 numbers of bits on the two models of docs/research/decoders.md).

    Args:
        searched: The weights and the errors of their candidates.
        cost: A name of `SENSITIVITIES`, or `auto`.
        work: The samples, and where results are kept.
        progress: Called during the measurement.

    Returns:
        The search with costs.
    """
    if cost != "auto" or work.origin != "user":
        return price_all(searched, cost, work, progress)[0]
    assert work.split is not None
    if tokens_of_model(searched.loaded.model, work.split.calibration) is not None:
        return price_all(searched, KL, work, progress)[0]
    output = price_all(searched, NETWORK_OUTPUT, work, progress)[0]
    if output.cost != NETWORK_OUTPUT:
        return output
    found = balanced(output.costs, by_weight_error(output.searched).costs)
    return replace(output, costs=found, cost=BALANCED)


def costs_measured(cost: str, origin: str | None, effort: Effort) -> list[str]:
    """The sensitivities that `price_all` measures.

    Args:
        cost: As for `price_all`.
        origin: Where the samples come from; None without samples.
        effort: How much is run.

    Returns:
        Names of `SENSITIVITIES`.
    """
    if cost != "auto":
        return [cost]
    if origin == "user":
        return [name for name, row in SENSITIVITIES.items() if row.competes(effort)]
    if origin == "proxy":
        names = [name for name, row in SENSITIVITIES.items() if row.competes_on_proxies]
        return sorted(names, key=lambda name: name != WEIGHT_ERROR)
    return [WEIGHT_ERROR]


def price_all(searched: Searched, cost: str, work: Workspace, progress: Progress = quiet) -> list[Priced]:
    """Measure one sensitivity, or for `auto` all that are compared.

    Args:
        searched: The weights and the errors of their candidates.
        cost: A name of `SENSITIVITIES`, or `auto`: on the user's samples all that `competes_by_default`, on proxies all
            that `competes_on_proxies`, else weight error.
        work: The samples, and where results are kept. Without samples only sensitivities that need none can be named.
        progress: Called during the measurement.

    Returns:
        The search with costs, for each sensitivity.
    """
    if not searched.table:
        return [by_weight_error(searched)]
    names = costs_measured(cost, work.origin, work.effort)
    measurement = Measurement(searched.table, searched.loaded.model, searched.sites, work, progress)
    if cost == "auto" and any(SENSITIVITIES[name].needs_tokens for name in names) and measurement.tokens is None:
        names = [name for name in names if not SENSITIVITIES[name].needs_tokens]
    with threadpool_limits(1, "blas"):
        costs = {name: measurement.of(SENSITIVITIES[name].measure) for name in names}
    if NETWORK_OUTPUT in costs and len(costs) > 1:
        costs[BALANCED] = balanced(costs[NETWORK_OUTPUT], costs[WEIGHT_ERROR])
    return [Priced(searched=searched, costs=found, cost=name) for name, found in costs.items()]


def by_weight_error(searched: Searched) -> Priced:
    """The search with the costs of the data-free sensitivity.

    Args:
        searched: The weights and the errors of their candidates.

    Returns:
        The costs, named WEIGHT_ERROR.
    """
    measurement = Measurement(searched.table, searched.loaded.model, searched.sites)
    return Priced(searched=searched, costs=SENSITIVITIES[WEIGHT_ERROR].measure(measurement), cost=WEIGHT_ERROR)


def by_rule(searched: Searched, budget: BudgetOptions) -> Planned:
    """Plan by the rule, layer by layer.

    Args:
        searched: The weights and the errors of their candidates.
        budget: Name of the rule, and QEM.

    Returns:
        The plan, with a note where no width that is allowed meets the rule.

    Raises:
        OptionError: There is no such rule.
    """
    row = rule(budget.rule)
    planned = planned_with(searched, row.allocate(searched.table, budget.qem), budget, row.allocator)
    count = len(unmet(searched.table, planned.plan.sites, budget.qem))
    if not count:
        return planned
    which = counted(count, "weight does", "weights do")
    narrow = max(searched.settings["bits"]) < max(ALL_BITS)
    why = "no allowed width does (--bits)" if narrow else "no width does"
    why = why if searched.form.integer is None else "no width does that runs on integers"
    return replace(planned, notes=(f"{which} not meet --qem {budget.qem:g}: {why}",))


_FAR = 2
"""Bits by which two plans must differ on a weight to be reported."""


def disagreements(planned: Planned, priced: Priced, budget: BudgetOptions) -> tuple[str, ...]:
    """The weights on which a measured sensitivity and the data-free one differ most, at the same budget.

    Args:
        planned: The plan by the measured sensitivity.
        priced: Its costs.
        budget: The budget.

    Returns:
        A note, or none.
    """
    if priced.cost == WEIGHT_ERROR:
        return ()
    blind = plan_priced(by_weight_error(priced.searched), budget).plan.sites
    far = {
        name: (scheme.bits, blind[name].bits)
        for name, scheme in planned.plan.sites.items()
        if name in blind and abs(scheme.bits - blind[name].bits) >= _FAR
    }
    if not far:
        return ()
    name = max(far, key=lambda n: abs(far[n][0] - far[n][1]))
    ours, theirs = far[name]
    count = counted(len(far), "weight gets", "weights get")
    return (
        f"{count} {_FAR} bits more or less by cost '{priced.cost}' than by '{WEIGHT_ERROR}', "
        f"most '{name}': {ours} and {theirs}",
    )


def plan_priced(priced: Priced, budget: BudgetOptions) -> Planned:
    """The plan for a budget.

    Args:
        priced: Costs of the candidates.
        budget: Average bits, or QEM over the whole model.

    Returns:
        The plan of least cost, or of fewest bytes.

    Raises:
        OptionError: The smallest plan is larger.
    """
    if budget.avg_bits is not None:
        return plan_of_bits(priced, budget, budget.avg_bits)
    choices = priced.choices()
    table = priced.searched.table
    allowed = budget.qem * sum(baseline_cost(table[name], priced.costs[name]) for name in table)
    return plan_of_choices(priced, budget, smallest_within_cost(choices, allowed), BY_SCOPE)


def plan_of_bits(priced: Priced, budget: BudgetOptions, bits: float, floats: bool = False) -> Planned:
    """The plan of least cost at an average number of bits.

    Args:
        priced: Costs of the candidates.
        budget: Recorded in the plan.
        bits: Bits per weight, scales and zero points included.
        floats: Whether tensors may stay float.

    Returns:
        The plan.

    Raises:
        OptionError: The smallest plan is larger.
    """
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
    """The plan for chosen candidates.

    Args:
        priced: Costs of the candidates.
        budget: Recorded in the plan.
        chosen: The candidate of each weight.
        allocator: Recorded in the plan.

    Returns:
        The plan, without weights that are not worth quantizing.
    """
    schemes = {name: choice.scheme for name, choice in chosen.items() if choice.scheme is not None}
    made = planned_with(priced.searched, schemes, budget, allocator)
    return replace(made, cost=priced.cost, costs=priced.costs)


def baseline_cost(errors: ErrorRow, own: Mapping[Scheme, float]) -> float:
    """The cost of plain int8, extrapolated in proportion to QE from the candidate with the nearest QE.

    Args:
        errors: The errors of the candidates of a weight.
        own: Their costs.

    Returns:
        The cost; 0 where plain int8 has no error.
    """
    with_error = [cell for cell in errors.candidates if cell.qe > 0]
    if not with_error or errors.baseline <= 0:
        return 0.0
    nearest = min(with_error, key=lambda cell: abs(cell.qe - errors.baseline))
    return own[nearest.scheme] * errors.baseline / nearest.qe
