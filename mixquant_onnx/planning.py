"""Everything before the graph is touched: find the weights, measure their errors, choose their bits."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mixquant_onnx.allocators import budget
from mixquant_onnx.allocators import qem as qem_rule
from mixquant_onnx.allocators.budget import energy_choices, relative_error
from mixquant_onnx.encodings.forms import FormOptions
from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.graph import model_io
from mixquant_onnx.graph.sites import LocatedSite, find, weight_values
from mixquant_onnx.measure import SearchOptions, measure
from mixquant_onnx.types import ALL_BITS, BitPlan, ErrorTable, FloatArray, Scheme, SiteErrors

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every choice of a run. Patterns match tensor, site and node names (fnmatch)."""

    qem: float = 2.0
    scope: Literal["layer", "model"] = "layer"
    avg_bits: float | None = None
    search: SearchOptions = field(default_factory=SearchOptions)
    form: FormOptions = field(default_factory=FormOptions)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = 256
    verify: bool = True
    data: Path | tuple[Mapping[str, FloatArray], ...] | None = None
    labels: Path | None = None
    rounding: Literal["compensated", "nearest"] = "compensated"
    allow_unchanged: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.qem) and self.qem > 0):
            raise OptionError(f"--qem {self.qem:g} is not a positive number; 2 is a good start")
        if self.avg_bits is not None and not 2 <= self.avg_bits <= 32:
            raise OptionError(f"--avg-bits {self.avg_bits:g} is out of range; give bits a weight, such as 4.5")
        if not self.search.bits or any(b not in ALL_BITS for b in self.search.bits):
            raise OptionError("--bits takes widths from 2 to 8, such as 2-8 or 4,8")
        if self.min_size < 1:
            raise OptionError("--min-size takes a positive number of elements")
        if self.form.native_types and not set(self.search.bits) & {2, 4, 8}:
            raise OptionError("--native-types leaves no width: allow 4 or 8 with --bits")
        if self.labels is not None and self.data is None:
            raise OptionError("--labels needs --data")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """Everything before the graph is touched. `sites` point into `model`."""

    loaded: model_io.Loaded
    sites: Mapping[str, LocatedSite]
    table: ErrorTable
    plan: BitPlan


def quiet(stage: str, done: int, total: int) -> None:
    return None


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


def _allocate(table: ErrorTable, options: Options) -> dict[str, Scheme]:
    """The rule layer by layer, the same error spent over the whole model, or the least error for the bytes.

    Raises OptionError where the bytes do not suffice.
    """
    if options.avg_bits is None and options.scope == "layer":
        return qem_rule.allocate(table, options.qem)
    choices = {name: energy_choices(errors) for name, errors in table.items()}
    if options.avg_bits is None:
        allowed = options.qem * sum(relative_error(errors, errors.baseline) for errors in table.values())
        chosen = budget.smallest_within_cost(choices, allowed)
    else:
        elements = sum(errors.elements for errors in table.values())
        chosen = budget.best_within_bytes(choices, int(options.avg_bits * elements / 8 + 1e-6))
        reached = 8 * sum(choice.nbytes for choice in chosen.values()) / max(elements, 1)
        if reached > options.avg_bits + 1e-6:
            raise OptionError(
                f"--avg-bits {options.avg_bits:g} is below the smallest possible, {reached:.2f} with scales and zero "
                f"points; allow fewer bits with --bits or a coarser --granularity"
            )
    return {name: choice.scheme for name, choice in chosen.items()}


OVERHEAD = 300
"""Bytes of names, shapes and nodes that a quantized tensor brings along."""


def make_plan(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Planned:
    """Search and allocation: nothing is changed. Raises OptionError for a pattern that matches nothing."""
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
    search = replace(options.search, bits=bits)
    table = measure([s.site for s in sites.values()], lambda n: weight_values(sites[n]), search, advance)
    chosen = _allocate(table, options)
    for name, scheme in list(chosen.items()):
        cell = next(c for c in table[name].cells if c.scheme == scheme)
        weight = sites[name].source.tensor
        if cell.nbytes + OVERHEAD >= weight.ByteSize():
            skipped[name] = f"{scheme.bits} bits with their scales would take as much as float"
            del chosen[name]
    plan = BitPlan(
        sites=chosen,
        skipped=skipped,
        allocator="avg-bits" if options.avg_bits is not None else "qem",
        settings={
            **({"avg_bits": options.avg_bits} if options.avg_bits is not None else {"qem": options.qem}),
            "scope": options.scope,
            "bits": list(bits),
            "granularity": str(search.grid),
            "method": search.method,
            "symmetric": search.symmetric,
            "baseline": search.baseline,
            "min_size": options.min_size,
        },
    )
    return Planned(loaded=loaded, sites=found.sites, table=table, plan=plan)


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
            grid=scheme.grid,
            method=scheme.method,
            symmetric=scheme.symmetric,
            baseline="same" if plan.settings.get("baseline") == "same" else "int8",
        )
        located = found.sites[name]
        table.update(measure([located.site], lambda n: weight_values(found.sites[n]), search))
        progress("search", position + 1, len(plan.sites))
    kept = BitPlan(sites=plan.sites, skipped=skipped, allocator=plan.allocator, settings=plan.settings)
    return Planned(loaded=loaded, sites=found.sites, table=table, plan=kept)
