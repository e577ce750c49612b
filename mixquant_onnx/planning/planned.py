"""A plan with everything that is known before the graph is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mixquant_onnx.config.stages import BudgetOptions, FormOptions, SearchOptions
from mixquant_onnx.errors import PlanError, counted
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.draft import draft_size
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.size import worth_storing
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import LocatedWeight, find
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.rules import BY_SCOPE, rule_of
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable, site_errors, wide_schemes
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.search import Searched
from mixquant_onnx.planning.select_weights import float_values, unusable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """A plan and its model; the graph is not changed yet.

    Attributes:
        loaded: The model.
        sites: All its weights by name; they refer to objects in `loaded.model`.
        table: Errors of the candidates.
        plan: The scheme of each weight.
        form: How files are written.
        notes: Remarks for the user.
        at_a_loss: Weights that stay float because they would take no fewer bytes quantized.
        cost: Name of the sensitivity by which a budget was spent; empty for a rule.
        costs: Its costs, of each candidate of each weight.
    """

    loaded: Loaded
    sites: Mapping[str, LocatedWeight]
    table: ErrorTable
    plan: Plan
    form: FormOptions
    notes: tuple[str, ...] = ()
    at_a_loss: frozenset[str] = frozenset()
    cost: str = ""
    costs: Mapping[str, Mapping[Scheme, float]] = field(default_factory=dict)

    def with_sites(self, sites: Mapping[str, Scheme]) -> Planned:
        """The same with other schemes, by the name of the weight."""
        return replace(self, plan=replace(self.plan, sites=sites))


def sizes_of(known: Searched | Planned) -> FileSizes:
    """What the weights of `known` take in a file."""
    wide = wide_schemes(known.table)
    return FileSizes(known.loaded.model, known.sites, known.form, known.loaded.external, wide=wide)


def size_of(planned: Planned) -> int:
    """Bytes of the file that `planned` makes; of a large model no less, from shapes alone."""
    if planned.loaded.is_large:
        return planned.loaded.nbytes + sizes_of(planned).growth(planned.plan.sites) + _MARGIN
    return draft_size(planned.loaded, planned.sites, planned.plan.sites, planned.form)


_MARGIN = 1 << 16
"""Bytes by which the size of a large model may differ from what shapes tell; its file has over a thousand times as
many."""


def planned_with(searched: Searched, chosen: Mapping[str, Scheme], budget: BudgetOptions, allocator: str) -> Planned:
    """The plan for chosen schemes, in which nothing is stored at a loss.

    Args:
        searched: The weights and the errors of their candidates.
        chosen: Schemes by name; other weights stay float.
        budget: Recorded in the plan.
        allocator: Recorded in the plan.

    Returns:
        The plan.
    """
    skipped, kept = dict(searched.skipped), dict[str, Scheme]()
    for name in searched.table:
        scheme = chosen.get(name)
        if scheme is None:
            skipped[name] = "float reaches the accuracy target best"
        else:
            kept[name] = scheme
    stored = worth_storing(
        sizes_of(searched), kept, {} if budget.avg_bits is not None else _as_exact(searched.table, kept)
    )
    skipped |= stored.left_float
    settings = {**_spent(budget, allocator), **searched.settings}
    plan = Plan(sites=stored.schemes, skipped=skipped, allocator=allocator, settings=settings)
    return Planned(
        loaded=searched.loaded,
        sites=searched.sites,
        table=searched.table,
        plan=plan,
        form=searched.form,
        at_a_loss=frozenset(stored.left_float),
    )


def _spent(budget: BudgetOptions, allocator: str) -> dict[str, Any]:
    """The settings of a budget, for the plan's file."""
    by_error = allocator == BY_SCOPE or rule_of(allocator) is not None
    found: dict[str, Any] = {}
    if budget.avg_bits is not None:
        found["avg_bits"] = budget.avg_bits
    if budget.max_size is not None:
        found["max_size"] = budget.max_size
    if by_error:
        found["qem"] = budget.qem
    return {**found, "scope": budget.scope if by_error else "model"}


def left_float(planned: Planned, reasons: Mapping[str, str]) -> Planned:
    """A plan in which some weights stay float, as they would be stored at a loss.

    Args:
        planned: The plan.
        reasons: Why, by the name of the weight.

    Returns:
        The plan without them.
    """
    sites = {name: scheme for name, scheme in planned.plan.sites.items() if name not in reasons}
    plan = replace(planned.plan, sites=sites, skipped={**planned.plan.skipped, **reasons})
    return replace(planned, plan=plan, at_a_loss=planned.at_a_loss | set(reasons))


def without_losses(planned: Planned) -> Planned:
    """A plan whose bits were changed, without weights that are now stored at a loss.

    Args:
        planned: The plan.

    Returns:
        The plan with these weights float.
    """
    return left_float(planned, worth_storing(sizes_of(planned), planned.plan.sites, {}).left_float)


def _as_exact(table: ErrorTable, chosen: Mapping[str, Scheme]) -> dict[str, list[Scheme]]:
    """For each chosen weight the schemes whose QE is no higher, so that the rule's limit also holds for them."""
    found = {}
    for name, scheme in chosen.items():
        cells = table[name].candidates
        limit = next(c.qe for c in cells if c.scheme == scheme)
        found[name] = [c.scheme for c in cells if c.qe <= limit and c.scheme != scheme]
    return found


def fit_plan(loaded: Loaded, plan: Plan, min_size: int, form: FormOptions, progress: Progress = quiet) -> Planned:
    """Apply a plan of another run, perhaps edited, to a model.

    Args:
        loaded: The model.
        plan: The plan.
        min_size: Fewest elements of a weight that is reported.
        form: How files are written.
        progress: Called after each weight.

    Returns:
        The plan with the errors of its schemes.

    Raises:
        PlanError: A weight is missing, or cannot be quantized.
    """
    found = find(loaded.model, 1)
    unknown = [name for name in plan.sites if name not in found.sites]
    if unknown:
        raise PlanError(f"the plan names '{unknown[0]}', which is no weight of this model; remove it, or plan again")
    large = found.at_least(min_size)
    skipped = dict(large.skipped)
    skipped.update({n: plan.skipped.get(n, "not in the plan") for n in large.sites if n not in plan.sites})
    sites = {n: located for n, located in found.sites.items() if n in large.sites or n in plan.sites}
    baseline: Literal["int8", "same"] = "same" if plan.settings.get("baseline") == "same" else "int8"
    table: dict[str, ErrorRow] = {}
    for position, (name, scheme) in enumerate(plan.sites.items()):
        table[name] = _errors_of(sites[name], scheme, baseline)
        progress("search", position + 1, len(plan.sites))
    made = Planned(loaded=loaded, sites=sites, table=table, plan=replace(plan, skipped=skipped), form=form)
    return without_losses(made)


def _errors_of(located: LocatedWeight, scheme: Scheme, baseline: Literal["int8", "same"]) -> ErrorRow:
    """The error of one scheme. Raises PlanError where the weight cannot be quantized."""
    values = float_values(located)
    reason = unusable(values)
    if reason:
        raise PlanError(f"the plan quantizes '{located.site.name}', which {reason}; remove it from the plan")
    options = SearchOptions(
        bits=(scheme.bits,),
        grids=(scheme.grid,),
        method=scheme.method,
        symmetric=scheme.symmetric,
        baseline=baseline,
    )
    return site_errors(located.site, values, options)


def why_unchanged(planned: Planned) -> str:
    """Why a plan quantizes nothing.

    Args:
        planned: The plan.

    Returns:
        The message of an error: what stands in the way, and what to do.
    """
    reasons = [planned.plan.skipped[name] for name in planned.at_a_loss] or list(planned.plan.skipped.values())
    if not reasons:
        return "nothing was quantized (the model holds no float tensor over the size limit); see mixquant-onnx inspect"
    common = max(sorted(set(reasons)), key=reasons.count)
    if planned.at_a_loss:
        return (
            f"nothing to gain ({counted(len(reasons), 'weight')} would make the file no smaller, most because: "
            f"{common}); use the float model (--allow-unchanged copies it), or allow fewer bits or a coarser "
            f"--granularity"
        )
    most = f"{counted(len(reasons), 'float tensor was', 'float tensors were')} skipped, most because: {common}"
    return f"nothing was quantized ({most}); see mixquant-onnx inspect"
