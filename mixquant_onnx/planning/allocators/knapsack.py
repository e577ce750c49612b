"""Multiple-choice knapsack: one candidate for each weight, the least sum of one quantity within a limit on another.

Dynamic programming on partial sums that are not dominated in both quantities, without those that the Lagrangian bound
excludes. tests/test_knapsack.py compares it with an exact solver.

Source:
    Nemhauser and Ullmann 1969, "Discrete dynamic programming and capital allocation".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.lagrangian import Table, lower_bound

_MOST_SUMS = (100, 4_000)
"""Most partial sums after each weight, in a first and a second pass. The first finds a plan whose value excludes most
sums of the second. The optimum may be missed only where the second still has more; it hardly matters which are dropped,
as those of the least bound stay.
"""

_ROUNDING = 1e-12
"""Relative tolerance of a bound, so that float64 rounding does not exclude a plan as good as the best known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One candidate of a weight.

    Attributes:
        scheme: How it is quantized; None to stay float.
        cost: Its cost in quality, in any additive unit.
        nbytes: Its size in bytes.
    """

    scheme: Scheme | None
    cost: float
    nbytes: int


Choices = Mapping[str, Sequence[Choice]]
"""The candidates of each weight."""

Split = Callable[[Choice], tuple[float, float]]
"""A choice as (value to minimise, limited quantity)."""


def smallest_within_cost(choices: Choices, budget: float) -> dict[str, Choice]:
    """The fewest bytes whose summed cost is within a budget.

    Args:
        choices: The candidates of each weight.
        budget: Largest sum of costs.

    Returns:
        The candidate of each weight; those of least cost where no plan is within the budget.
    """
    return _least_value(choices, budget, lambda c: (float(c.nbytes), c.cost))


def best_within_bytes(choices: Choices, limit: int) -> dict[str, Choice]:
    """The least summed cost whose bytes are within a limit.

    Args:
        choices: The candidates of each weight.
        limit: Largest sum of bytes.

    Returns:
        The candidate of each weight; those of fewest bytes where no plan is within the limit.
    """
    return _least_value(choices, float(limit), lambda c: (c.cost, float(c.nbytes)))


def _least_value(choices: Choices, limit: float, split: Split) -> dict[str, Choice]:
    cheapest = {site: min(own, key=split) for site, own in choices.items()}
    if _need(cheapest, split) <= limit:
        return cheapest
    smallest = {site: min(own, key=lambda c: split(c)[::-1]) for site, own in choices.items()}
    if not _need(smallest, split) <= limit:
        return smallest
    # Weights with the largest differences come first, so that the bound excludes early.
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
    """Values and needs as arrays.

    A value that is not finite, of a model that did not run, is replaced by a large one.
    """
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
    """One pass of dynamic programming.

    Args:
        values: [weights, candidates], what is to be small.
        needs: [weights, candidates], what is limited.
        limit: Largest sum of needs.
        price: Lagrangian multiplier of the bound.
        known: Value of a plan within `limit`.
        most: Most partial sums after each weight.

    Returns:
        The candidate of each weight, and the sum of values; None where no plan has at most the value `known`.
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
    """At k the sum of the least entries of rows k, k + 1, ...; one entry more than there are rows."""
    return np.append(np.cumsum(table.min(axis=1)[::-1])[::-1], 0.0)


def _unbeaten(values: NDArray[np.float64], needs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions of the pairs that are not dominated in both quantities."""
    order = np.lexsort((values, needs))
    least = np.minimum.accumulate(values[order])
    return np.asarray(order[np.diff(least, prepend=np.inf) < 0], np.intp)
