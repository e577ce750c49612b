"""A file of a given size: plans are made into files until one comes close from below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx import ModelProto

from mixquant_onnx.allocation import Priced, plan_of_choices
from mixquant_onnx.allocators.budget import Choices
from mixquant_onnx.allocators.charged import best_within_charged, total_bytes
from mixquant_onnx.errors import OptionError
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import draft, size_of, stored_size
from mixquant_onnx.planning import Planned, Searched, planned_with, widths

_SIZE_TURNS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """Bytes that a file takes beside codes, scales and zero points, by width."""

    site: Mapping[int, int]
    """Of each weight: nodes, names, shapes."""

    once: Mapping[int, int]
    """Of the functions that unpack."""


def added(searched: Searched, options: Options) -> Added:
    """Found out by giving all weights one width, for each width."""
    floats = {name: searched.sites[name].source.tensor.ByteSize() for name in searched.table}
    before, functions = searched.loaded.model.ByteSize(), _function_bytes(searched.loaded.model)
    site, once = {}, {}
    for bits in widths(searched.table):
        cells = {n: next(c for c in e.cells if c.scheme.bits == bits) for n, e in searched.table.items()}
        planned = planned_with(searched, {n: c.scheme for n, c in cells.items()}, options, "budget")
        model = draft(planned, options)
        once[bits] = _function_bytes(model) - functions
        without = before + once[bits] + sum(cells[n].nbytes - floats[n] for n in planned.plan.sites)
        site[bits] = (stored_size(model, searched.loaded) - without) // max(len(planned.plan.sites), 1)
    return Added(site=site, once=once)


def _function_bytes(model: ModelProto) -> int:
    return sum(function.ByteSize() for function in model.functions)


def plan_of_size(priced: Priced, options: Options, text: str, known: Added) -> Planned:
    """The least cost in a file of at most the given size. Raises OptionError naming the smallest possible size."""
    limit = size_limit(text, priced.searched.loaded.nbytes)
    choices = {
        name: [replace(c, nbytes=c.nbytes + known.site[c.scheme.bits]) for c in own if c.scheme is not None]
        for name, own in priced.choices().items()
    }
    best, predicted = _plan(priced, options, choices, 0, known)
    least = size_of(best, options)
    if least > limit:
        raise OptionError(
            f"--max-size {text} is {limit} bytes, below the smallest possible, {least} bytes; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    unforeseen = least - predicted
    tried = [best.plan.sites]
    for _ in range(_SIZE_TURNS):
        found, predicted = _plan(priced, options, choices, limit - unforeseen, known)
        if found.plan.sites in tried:
            break
        tried.append(found.plan.sites)
        size = size_of(found, options)
        unforeseen = size - predicted
        if size <= limit and _cost(priced, found) < _cost(priced, best):
            best = found
    return best


def _plan(priced: Priced, options: Options, choices: Choices, limit: int, known: Added) -> tuple[Planned, int]:
    """The least cost within `limit`, and the bytes that its file is expected to take."""
    chosen = best_within_charged(choices, limit, known.once)
    return plan_of_choices(priced, options, chosen), total_bytes(chosen, known.once)


def _cost(priced: Priced, planned: Planned) -> float:
    return sum(priced.costs[name][scheme] for name, scheme in planned.plan.sites.items())
