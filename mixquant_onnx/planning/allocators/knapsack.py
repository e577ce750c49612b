"""Multiple-choice knapsack: one candidate for each site, the least sum of one quantity within a limit on another.

Dynamic programming on the partial sums that no other beats in both quantities (Nemhauser and Ullmann 1969), without
those that the Lagrangian bound rules out. tests/test_knapsack.py compares it with an exact solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.lagrangian import Table, lower_bound
from mixquant_onnx.planning.error_table import SiteErrors

_MOST_SUMS = (100, 4_000)
"""Partial sums kept after each site, in a first pass and in a second.

The first finds a plan whose value rules out most sums of the second. The optimum is missed only where the second
still has more; which that is hardly changes it, as those of the least bound are kept.
"""

_ROUNDING = 1e-12
"""Of the terms of a bound: a plan as good as the best known is not ruled out by rounding of float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One candidate of a site: its cost in quality (any additive unit) and its bytes. No scheme: it stays float."""

    scheme: Scheme | None
    cost: float
    nbytes: int


Choices = Mapping[str, Sequence[Choice]]
"""The candidates of each site."""

Split = Callable[[Choice], tuple[float, float]]
"""A choice as (value: what is to be small, need: what is limited)."""


def relative_error(errors: SiteErrors, qe: float) -> float:
    """QE / mean(w^2), the `energy` cost; 0 for a layer of zeros."""
    return qe / errors.power if errors.power > 0 else 0.0


def smallest_within_cost(choices: Choices, budget: float) -> dict[str, Choice]:
    """The fewest bytes whose summed cost is at most `budget`; the least cost where no plan is within it."""
    return _least_value(choices, budget, lambda c: (float(c.nbytes), c.cost))


def best_within_bytes(choices: Choices, limit: int) -> dict[str, Choice]:
    """The least summed cost whose bytes are at most `limit`; the fewest bytes where no plan is within it."""
    return _least_value(choices, float(limit), lambda c: (c.cost, float(c.nbytes)))


def _least_value(choices: Choices, limit: float, split: Split) -> dict[str, Choice]:
    cheapest = {site: min(own, key=split) for site, own in choices.items()}
    if _need(cheapest, split) <= limit:
        return cheapest
    smallest = {site: min(own, key=lambda c: split(c)[::-1]) for site, own in choices.items()}
    if not _need(smallest, split) <= limit:
        return smallest
    # Sites that decide most come first, so that the bound rules out early.
    order = sorted(choices, key=lambda site: split(smallest[site])[1] - split(cheapest[site])[1])
    values, needs = _tables([[split(c) for c in choices[site]] for site in order])
    price = lower_bound(values, needs, limit).price
    best, known = smallest, float(sum(split(choice)[0] for choice in smallest.values()))
    for most in _MOST_SUMS:
        found = _pass(values, needs, limit, price, known, most)
        if found is not None:
            picked, known = found
            plan = dict(zip(order, picked, strict=True))
            best = {site: own[plan[site]] for site, own in choices.items()}
    return best


def _need(plan: Mapping[str, Choice], split: Split) -> float:
    return sum(split(choice)[1] for choice in plan.values())


def _tables(rows: Sequence[Sequence[tuple[float, float]]]) -> tuple[Table, Table]:
    """Values and needs as arrays. A value that is not finite, of a model that did not run, counts as very large."""
    shape = len(rows), max(map(len, rows))
    values, needs = np.full(shape, np.inf), np.full(shape, np.inf)
    for site, own in enumerate(rows):
        values[site, : len(own)], needs[site, : len(own)] = zip(*own, strict=True)
    finite = np.isfinite(values)
    large = 1e3 * np.abs(values[finite]).max(initial=1.0)
    return np.where(np.isfinite(needs) & ~finite, large, values), needs


def _pass(
    values: Table, needs: Table, limit: float, price: float, known: float, most: int
) -> tuple[list[int], float] | None:
    """The candidate of each site, and the sum of values; None where no plan has at most the value `known`.

    `known`: the value of a plan within `limit`. `most`: partial sums kept after each site.
    """
    rest_bound, rest_needs = _from_here_on(values + price * needs), _from_here_on(needs)
    ceiling = known + _ROUNDING * (abs(known) + price * abs(limit))
    value, need = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for site in range(len(values)):
        sums, taken = np.add.outer(value, values[site]).reshape(-1), np.add.outer(need, needs[site]).reshape(-1)
        bound = sums + price * (taken - limit) + rest_bound[site + 1]
        kept = np.flatnonzero((bound <= ceiling) & (taken + rest_needs[site + 1] <= limit))
        kept = kept[_unbeaten(sums[kept], taken[kept])]
        if len(kept) > most:
            kept = kept[np.argpartition(bound[kept], most)[:most]]
        if not len(kept):
            return None
        value, need = sums[kept], taken[kept]
        steps.append(np.divmod(kept, values.shape[1]))
    last = at = int(value.argmin())
    picked = []
    for before, choice in reversed(steps):
        picked.append(int(choice[at]))
        at = int(before[at])
    return picked[::-1], float(value[last])


def _from_here_on(table: Table) -> NDArray[np.float64]:
    """At k the sum of the least entries of the sites k, k + 1, ...; one more than there are sites."""
    return np.append(np.cumsum(table.min(axis=1)[::-1])[::-1], 0.0)


def _unbeaten(values: NDArray[np.float64], needs: NDArray[np.float64]) -> NDArray[np.intp]:
    """The positions of the pairs that no other is as good as in both."""
    order = np.lexsort((values, needs))
    least = np.minimum.accumulate(values[order])
    return np.asarray(order[np.diff(least, prepend=np.inf) < 0], np.intp)
