"""Before the graph is touched: find the weights, measure their errors, write down what was chosen."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.file_sizes import FileSizes
from mixquant_onnx.export.size import worth_storing
from mixquant_onnx.export.targets.forms import FormOptions
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.weights import LocatedSite, find, weight_values
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.options import Options
from mixquant_onnx.planning.error_table import ErrorTable, SearchOptions, SiteErrors, measure
from mixquant_onnx.quantization.methods import needs_torch


@dataclass(frozen=True, kw_only=True, slots=True)
class BitPlan:
    """{site: Scheme}, what stays float and why, and where the plan came from. JSON in and out."""

    sites: Mapping[str, Scheme]
    skipped: Mapping[str, str] = field(default_factory=dict)
    allocator: str = "qem"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "allocator": self.allocator,
            "settings": dict(self.settings),
            "sites": {name: str(scheme) for name, scheme in self.sites.items()},
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Any) -> BitPlan:
        """Raises PlanError when `data` is not a plan of this format."""
        wrong = PlanError("not a plan of mixquant-onnx (format 1); write one with --plan FILE")
        if not isinstance(data, dict) or data.get("format") != 1:
            raise wrong
        parts = [data.get("sites"), data.get("skipped", {}), data.get("settings", {})]
        if not all(isinstance(part, dict) for part in parts):
            raise wrong
        qem = parts[2].get("qem", 1.0)
        if not isinstance(qem, (int, float)) or not qem > 0:
            raise PlanError(f"the plan's setting qem is {qem!r}; it must be a positive number")
        return cls(
            sites={str(name): Scheme.parse(str(text)) for name, text in parts[0].items()},
            skipped={str(k): str(v) for k, v in parts[1].items()},
            allocator=str(data.get("allocator", "qem")),
            settings=dict(parts[2]),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """Everything before the graph is touched. `sites` point into `model`.

    `at_a_loss`: weights that stay float because they would take no fewer bytes quantized.
    """

    loaded: model_io.Loaded
    sites: Mapping[str, LocatedSite]
    table: ErrorTable
    plan: BitPlan
    notes: tuple[str, ...] = ()
    at_a_loss: frozenset[str] = frozenset()


def _matches(located: LocatedSite, pattern: str) -> bool:
    names = {located.site.name, located.site.tensor, *(use.node for use in located.site.uses)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _selected(sites: Mapping[str, LocatedSite], options: Options, skipped: dict[str, str]) -> dict[str, LocatedSite]:
    for flag, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not any(_matches(located, pattern) for located in sites.values()):
                raise OptionError(f"{flag} '{pattern}' matches no weight; `mixquant-onnx inspect` lists their names")
    kept = {}
    for name, located in sites.items():
        if any(_matches(located, p) for p in options.exclude):
            skipped[name] = "excluded"
        elif options.include and not any(_matches(located, p) for p in options.include):
            skipped[name] = "not included"
        else:
            kept[name] = located
    return kept


_SMALLEST = 1e-30
"""Weights all below this have squared errors that float32 cannot hold."""


def _unusable(located: LocatedSite) -> str | None:
    with np.errstate(over="ignore"):
        values = np.asarray(weight_values(located), np.float32)
    if not np.isfinite(values).all():
        return "holds NaN or Inf"
    largest = float(np.abs(values).max(initial=0))
    return "its weights are too small for a float32 scale" if 0 < largest < _SMALLEST else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searched:
    """The weights of a model, the errors of their candidates, and what stays float already. Nothing is chosen."""

    loaded: model_io.Loaded
    sites: Mapping[str, LocatedSite]
    table: ErrorTable
    skipped: Mapping[str, str]


def search(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Searched:
    """The MixQuant search. Raises OptionError for a pattern that matches nothing."""
    found = find(loaded.model, options.min_size)
    skipped = dict(found.skipped)
    sites = _selected(found.sites, options, skipped)
    for name, located in list(sites.items()):
        reason = _unusable(located)
        if reason:
            skipped[name] = reason
            del sites[name]
    total = sum(located.site.elements for located in sites.values())
    done = 0

    def advance(elements: int) -> None:
        nonlocal done
        done += elements
        progress("search", done, total)

    bits = options.search.bits
    if options.form.native_types:
        bits = tuple(b for b in bits if b in (2, 4, 8))
    wanted = replace(options.search, bits=bits)
    table = measure([s.site for s in sites.values()], lambda n: weight_values(sites[n]), wanted, advance)
    return Searched(loaded=loaded, sites=found.sites, table=table, skipped=skipped)


def widths(table: ErrorTable) -> list[int]:
    """All bits that candidates have, fewest first."""
    return sorted({c.scheme.bits for errors in table.values() for c in errors.cells})


def planned_with(searched: Searched, chosen: Mapping[str, Scheme], options: Options, allocator: str) -> Planned:
    """The plan of `chosen`, in which nothing is stored at a loss; sites that are not in it stay float."""
    skipped, kept = dict(searched.skipped), dict[str, Scheme]()
    for name in searched.table:
        scheme = chosen.get(name)
        if scheme is None:
            skipped[name] = "float keeps the promise best"
        else:
            kept[name] = scheme
    sizes = FileSizes(searched.loaded.model, searched.sites, options.form, searched.loaded.external)
    stored = worth_storing(sizes, kept, {} if options.avg_bits is not None else _as_exact(searched.table, kept))
    skipped |= stored.left_float
    by_error = allocator.startswith("qem") or allocator == "safe"
    settings = {
        **({"avg_bits": options.avg_bits} if options.avg_bits is not None else {}),
        **({"max_size": options.max_size} if options.max_size is not None else {}),
        **({"qem": options.qem} if by_error else {}),
        "scope": options.scope if by_error else "model",
        "bits": widths(searched.table),
        "granularity": str(options.search.grids[0]) if len(options.search.grids) == 1 else "auto",
        "method": options.search.method,
        "symmetric": options.search.symmetric,
        "baseline": options.search.baseline,
        "min_size": options.min_size,
        **(
            {"seed": options.reconstruction.seed, "iterations": options.reconstruction.iterations}
            if needs_torch(options.search.method)
            else {}
        ),
    }
    plan = BitPlan(sites=stored.schemes, skipped=skipped, allocator=allocator, settings=settings)
    return Planned(
        loaded=searched.loaded,
        sites=searched.sites,
        table=searched.table,
        plan=plan,
        at_a_loss=frozenset(stored.left_float),
    )


def left_float(planned: Planned, reasons: Mapping[str, str]) -> Planned:
    """`planned` with the weights of `reasons` float, as they would be stored at a loss."""
    sites = {name: scheme for name, scheme in planned.plan.sites.items() if name not in reasons}
    plan = replace(planned.plan, sites=sites, skipped={**planned.plan.skipped, **reasons})
    return replace(planned, plan=plan, at_a_loss=planned.at_a_loss | set(reasons))


def without_losses(planned: Planned, form: FormOptions) -> Planned:
    """`planned`, whose weights have other bits than when it was made, with those float that now are a loss."""
    sizes = FileSizes(planned.loaded.model, planned.sites, form, planned.loaded.external)
    return left_float(planned, worth_storing(sizes, planned.plan.sites, {}).left_float)


def _as_exact(table: ErrorTable, chosen: Mapping[str, Scheme]) -> dict[str, list[Scheme]]:
    """Of each chosen weight the schemes whose QE is no higher: they keep what was promised of the chosen one."""
    found = {}
    for name, scheme in chosen.items():
        cells = table[name].cells
        limit = next(c.qe for c in cells if c.scheme == scheme)
        found[name] = [c.scheme for c in cells if c.qe <= limit and c.scheme != scheme]
    return found


def fit_plan(loaded: model_io.Loaded, plan: BitPlan, options: Options, progress: Progress = quiet) -> Planned:
    """`plan` (written by another run, perhaps edited) for this model. Raises PlanError where it does not fit."""
    found = find(loaded.model, 1)
    unknown = [name for name in plan.sites if name not in found.sites]
    if unknown:
        raise PlanError(f"the plan names '{unknown[0]}', which is no weight of this model; remove it, or plan again")
    for name in plan.sites:
        reason = _unusable(found.sites[name])
        if reason:
            raise PlanError(f"the plan quantizes '{name}', which {reason}; remove it from the plan")
    large = find(loaded.model, options.min_size)
    skipped = dict(large.skipped)
    skipped.update({n: plan.skipped.get(n, "not in the plan") for n in large.sites if n not in plan.sites})
    table: dict[str, SiteErrors] = {}
    for position, (name, scheme) in enumerate(plan.sites.items()):
        search = SearchOptions(
            bits=(scheme.bits,),
            grids=(scheme.grid,),
            method=scheme.method,
            symmetric=scheme.symmetric,
            baseline="same" if plan.settings.get("baseline") == "same" else "int8",
        )
        located = found.sites[name]
        table.update(measure([located.site], lambda n: weight_values(found.sites[n]), search))
        progress("search", position + 1, len(plan.sites))
    sizes = FileSizes(loaded.model, found.sites, options.form, loaded.external)
    stored = worth_storing(sizes, plan.sites, {})
    skipped |= stored.left_float
    kept = BitPlan(sites=stored.schemes, skipped=skipped, allocator=plan.allocator, settings=plan.settings)
    lost = frozenset(stored.left_float)
    return Planned(loaded=loaded, sites=found.sites, table=table, plan=kept, at_a_loss=lost)
