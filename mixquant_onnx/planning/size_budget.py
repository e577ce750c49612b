"""A file of a given size: plans are drafted as files until one is just below the limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mixquant_onnx.config.parsing import nbytes_of
from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.errors import OptionError
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocation import Priced, plan_of_choices
from mixquant_onnx.planning.allocators.charged import best_within_charged, total_bytes
from mixquant_onnx.planning.allocators.knapsack import Choices
from mixquant_onnx.planning.planned import Planned, size_of, sizes_of
from mixquant_onnx.planning.search import Searched

_SIZE_TURNS = 8
"""Most drafts; bounds time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """Bytes that weights take in a file."""

    site: Mapping[str, Mapping[Scheme, int]]
    """By weight and candidate: codes, scales, zero points, nodes, names, shapes."""

    once: Mapping[int, int]
    """Of the decoder functions, by width."""


def added(searched: Searched) -> Added:
    """Sizes of all candidates, from the shapes that would be written (`FileSizes`).

    Args:
        searched: The weights and their candidates.

    Returns:
        Bytes of each candidate, and of each width's functions.
    """
    sizes = sizes_of(searched)
    opset = sizes.opset({name: errors.candidates[0].scheme for name, errors in searched.table.items()})
    site: dict[str, dict[Scheme, int]] = {}
    functions: dict[int, dict[str, int]] = {}
    for name, errors in searched.table.items():
        site[name] = {}
        for scheme in (cell.scheme for cell in errors.candidates):
            piece = sizes.piece(name, scheme, opset)
            site[name][scheme] = piece.nbytes
            functions.setdefault(scheme.bits, {}).update(piece.shared)
    return Added(site=site, once={bits: sum(found.values()) for bits, found in functions.items()})


def plan_of_size(priced: Priced, budget: BudgetOptions, text: str, known: Added) -> Planned:
    """The plan of least cost whose file has at most a given size.

    Args:
        priced: Costs of the candidates.
        budget: Recorded in the plan.
        text: The size, such as `5MB` or `25%` of the input.
        known: Sizes of the candidates.

    Returns:
        The plan.

    Raises:
        OptionError: The smallest possible file is larger; the message gives its size.
    """
    limit = nbytes_of(text, priced.searched.loaded.nbytes)
    choices = {
        name: [replace(c, nbytes=known.site[name][c.scheme]) for c in own if c.scheme is not None]
        for name, own in priced.choices().items()
    }
    best, predicted = _plan(priced, budget, choices, 0, known)
    least = size_of(best)
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
        size = size_of(found)
        unforeseen = size - predicted
        if size <= limit and _cost(priced, found) < _cost(priced, best):
            best = found
    return best


def _plan(priced: Priced, budget: BudgetOptions, choices: Choices, limit: int, known: Added) -> tuple[Planned, int]:
    """The plan of least cost within `limit`, and the predicted size of its file."""
    chosen = best_within_charged(choices, limit, known.once)
    return plan_of_choices(priced, budget, chosen), total_bytes(chosen, known.once)


def _cost(priced: Priced, planned: Planned) -> float:
    return sum(priced.costs[name][scheme] for name, scheme in planned.plan.sites.items())
