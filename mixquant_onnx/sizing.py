"""A file of a given size: plans are made into files until one comes close from below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixquant_onnx.allocation import Priced, plan_within
from mixquant_onnx.allocators.budget import Choice
from mixquant_onnx.errors import OptionError
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import size_of
from mixquant_onnx.planning import Planned, planned_with
from mixquant_onnx.types import Scheme

_SIZE_TURNS = 8
_SIZE_WITHIN = 0.99


def plan_of_size(priced: Priced, options: Options, text: str) -> Planned:
    """The least cost in a file of at most the given size. Raises OptionError naming the smallest possible size."""
    limit = size_limit(text, priced.searched.loaded.nbytes)
    choices = _with_nodes(priced, options)
    smallest = min(
        (plan_within(priced, options, by, 0) for by in (choices, priced.choices())),
        key=lambda made: size_of(made, options),
    )
    least = size_of(smallest, options)
    if least > limit:
        raise OptionError(
            f"--max-size {text} is {limit} bytes, below the smallest possible, {least} bytes; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    best, taken = smallest, least
    for pool in (choices, None):
        if pool is None:
            widths = {scheme.bits for scheme in best.plan.sites.values()}
            pool = {n: [c for c in own if c.scheme and c.scheme.bits in widths] for n, own in choices.items()}
        target = limit - (taken - _predicted(best, choices))
        for _ in range(_SIZE_TURNS):
            found = plan_within(priced, options, pool, target)
            size, predicted = size_of(found, options), _predicted(found, choices)
            if taken < size <= limit:
                best, taken = found, size
            if taken >= _SIZE_WITHIN * limit or (size <= limit and predicted == target):
                return best
            target = predicted + limit - size
    return best


def _predicted(planned: Planned, choices: Mapping[str, Sequence[Choice]]) -> int:
    """Bytes that the sites of `choices` take under a plan, other than by making the file."""
    total = 0
    for name, own in choices.items():
        scheme = planned.plan.sites.get(name)
        stays = planned.sites[name].source.tensor.ByteSize()
        total += next((c.nbytes for c in own if c.scheme == scheme), stays)
    return total


def _with_nodes(priced: Priced, options: Options) -> dict[str, list[Choice]]:
    """The candidates with all that they add to a file: nodes, names and shapes, which differ by width."""
    searched = priced.searched
    floats = {name: searched.sites[name].source.tensor.ByteSize() for name in searched.table}
    extra: dict[int, int] = {}
    for bits in sorted({c.scheme.bits for errors in searched.table.values() for c in errors.cells}):
        cells = {n: next(c for c in e.cells if c.scheme.bits == bits) for n, e in searched.table.items()}
        schemes: dict[str, Scheme] = {name: cell.scheme for name, cell in cells.items()}
        planned = planned_with(searched, schemes, options, "budget")
        without = searched.loaded.model.ByteSize() + sum(cells[n].nbytes - floats[n] for n in planned.plan.sites)
        extra[bits] = (size_of(planned, options) - without) // max(len(planned.plan.sites), 1)
    return {
        name: [replace(c, nbytes=c.nbytes + extra[c.scheme.bits]) for c in own if c.scheme is not None]
        for name, own in priced.choices().items()
    }
