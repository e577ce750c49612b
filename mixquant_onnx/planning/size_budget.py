"""A file of a given size: plans are made into files until one comes close from below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mixquant_onnx.config.parsing import nbytes_of
from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.errors import OptionError
from mixquant_onnx.export.draft import draft_size
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocation import Priced, plan_of_choices
from mixquant_onnx.planning.allocators.charged import best_within_charged, total_bytes
from mixquant_onnx.planning.allocators.knapsack import Choices
from mixquant_onnx.planning.planned import Planned, sizes_of
from mixquant_onnx.planning.search import Searched

_SIZE_TURNS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """Bytes that weights take in a file."""

    site: Mapping[str, Mapping[Scheme, int]]
    """Of each weight under each of its candidates: codes, scales, zero points, nodes, names, shapes."""

    once: Mapping[int, int]
    """Of the functions that unpack, by width."""


def added(searched: Searched) -> Added:
    """From the shapes of what would be written (`FileSizes`)."""
    sizes = sizes_of(searched)
    opset = sizes.opset({name: errors.cells[0].scheme for name, errors in searched.table.items()})
    site: dict[str, dict[Scheme, int]] = {}
    functions: dict[int, dict[str, int]] = {}
    for name, errors in searched.table.items():
        site[name] = {}
        for scheme in (cell.scheme for cell in errors.cells):
            piece = sizes.piece(name, scheme, opset)
            site[name][scheme] = piece.nbytes
            functions.setdefault(scheme.bits, {}).update(piece.functions)
    return Added(site=site, once={bits: sum(found.values()) for bits, found in functions.items()})


def plan_of_size(priced: Priced, budget: BudgetOptions, text: str, known: Added) -> Planned:
    """The least cost in a file of at most the given size. Raises OptionError naming the smallest possible size."""
    limit = nbytes_of(text, priced.searched.loaded.nbytes)
    choices = {
        name: [replace(c, nbytes=known.site[name][c.scheme]) for c in own if c.scheme is not None]
        for name, own in priced.choices().items()
    }
    best, predicted = _plan(priced, budget, choices, 0, known)
    least = _size(best)
    if least > limit:
        raise OptionError(
            f"--max-size {text} is {limit} bytes, below the smallest possible, {least} bytes; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    unforeseen = least - predicted
    tried = [best.plan.sites]
    for _ in range(_SIZE_TURNS):
        found, predicted = _plan(priced, budget, choices, limit - unforeseen, known)
        if found.plan.sites in tried:
            break
        tried.append(found.plan.sites)
        size = _size(found)
        unforeseen = size - predicted
        if size <= limit and _cost(priced, found) < _cost(priced, best):
            best = found
    return best


def _plan(priced: Priced, budget: BudgetOptions, choices: Choices, limit: int, known: Added) -> tuple[Planned, int]:
    """The least cost within `limit`, and the bytes that its file is expected to take."""
    chosen = best_within_charged(choices, limit, known.once)
    return plan_of_choices(priced, budget, chosen), total_bytes(chosen, known.once)


def _size(planned: Planned) -> int:
    """Bytes of the file that `planned` makes."""
    return draft_size(planned.loaded, planned.sites, planned.plan.sites, planned.form)


def _cost(priced: Priced, planned: Planned) -> float:
    return sum(priced.costs[name][scheme] for name, scheme in planned.plan.sites.items())
