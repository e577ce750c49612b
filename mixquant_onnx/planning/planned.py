"""A plan with all that is known before the graph is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mixquant_onnx.config.stages import BudgetOptions, FormOptions, SearchOptions
from mixquant_onnx.errors import PlanError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.size import worth_storing
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import LocatedSite, find
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.rules import BY_SCOPE, rule_of
from mixquant_onnx.planning.error_table import ErrorTable, SiteErrors, site_errors, wide_schemes
from mixquant_onnx.planning.plan import BitPlan
from mixquant_onnx.planning.search import Searched
from mixquant_onnx.planning.select_weights import float_values, unusable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """Everything before the graph is touched. `sites` point into `model`.

    `at_a_loss`: weights that stay float because they would take no fewer bytes quantized.
    """

    loaded: Loaded
    sites: Mapping[str, LocatedSite]
    table: ErrorTable
    plan: BitPlan
    form: FormOptions
    notes: tuple[str, ...] = ()
    at_a_loss: frozenset[str] = frozenset()


def sizes_of(known: Searched | Planned) -> FileSizes:
    """What the weights of `known` take in a file."""
    wide = wide_schemes(known.table)
    return FileSizes(known.loaded.model, known.sites, known.form, known.loaded.external, wide=wide)


def planned_with(searched: Searched, chosen: Mapping[str, Scheme], budget: BudgetOptions, allocator: str) -> Planned:
    """The plan of `chosen`, in which nothing is stored at a loss; sites that are not in it stay float."""
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
    plan = BitPlan(sites=stored.schemes, skipped=skipped, allocator=allocator, settings=settings)
    return Planned(
        loaded=searched.loaded,
        sites=searched.sites,
        table=searched.table,
        plan=plan,
        form=searched.form,
        at_a_loss=frozenset(stored.left_float),
    )


def _spent(budget: BudgetOptions, allocator: str) -> dict[str, Any]:
    """What `budget` says, for the plan's file."""
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
    """`planned` with the weights of `reasons` float, as they would be stored at a loss."""
    sites = {name: scheme for name, scheme in planned.plan.sites.items() if name not in reasons}
    plan = replace(planned.plan, sites=sites, skipped={**planned.plan.skipped, **reasons})
    return replace(planned, plan=plan, at_a_loss=planned.at_a_loss | set(reasons))


def without_losses(planned: Planned) -> Planned:
    """`planned`, whose weights have other bits than when it was made, with those float that now are a loss."""
    return left_float(planned, worth_storing(sizes_of(planned), planned.plan.sites, {}).left_float)


def _as_exact(table: ErrorTable, chosen: Mapping[str, Scheme]) -> dict[str, list[Scheme]]:
    """Of each chosen weight the schemes whose QE is no higher: they keep what was promised of the chosen one."""
    found = {}
    for name, scheme in chosen.items():
        cells = table[name].cells
        limit = next(c.qe for c in cells if c.scheme == scheme)
        found[name] = [c.scheme for c in cells if c.qe <= limit and c.scheme != scheme]
    return found


def fit_plan(loaded: Loaded, plan: BitPlan, min_size: int, form: FormOptions, progress: Progress = quiet) -> Planned:
    """`plan` (written by another run, perhaps edited) for this model. Raises PlanError where it does not fit."""
    found = find(loaded.model, 1)
    unknown = [name for name in plan.sites if name not in found.sites]
    if unknown:
        raise PlanError(f"the plan names '{unknown[0]}', which is no weight of this model; remove it, or plan again")
    large = found.at_least(min_size)
    skipped = dict(large.skipped)
    skipped.update({n: plan.skipped.get(n, "not in the plan") for n in large.sites if n not in plan.sites})
    sites = {n: located for n, located in found.sites.items() if n in large.sites or n in plan.sites}
    baseline: Literal["int8", "same"] = "same" if plan.settings.get("baseline") == "same" else "int8"
    table: dict[str, SiteErrors] = {}
    for position, (name, scheme) in enumerate(plan.sites.items()):
        table[name] = _errors_of(sites[name], scheme, baseline)
        progress("search", position + 1, len(plan.sites))
    made = Planned(loaded=loaded, sites=sites, table=table, plan=replace(plan, skipped=skipped), form=form)
    return without_losses(made)


def _errors_of(located: LocatedSite, scheme: Scheme, baseline: Literal["int8", "same"]) -> SiteErrors:
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
