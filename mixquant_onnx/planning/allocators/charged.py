"""Knapsack with fixed charges: each width in use also takes bytes once, for its functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.planning.allocators.knapsack import Choice, Choices, best_within_bytes
from mixquant_onnx.planning.allocators.lagrangian import lower_bound

Charges = Mapping[int, int]
"""Bytes that a file takes once for each width in it."""

_MOST_SOLVED = 12
"""Most sets of widths for which the budget is solved, of at most 255: those of the least bounds. Usually one or two
suffice.
"""


def best_within_charged(choices: Choices, limit: int, charges: Charges) -> dict[str, Choice]:
    """The plan of least cost whose bytes and charges are within a limit.

    Every set of widths has a lower bound of its cost. Sets are solved in the order of their bounds, until a bound
    exceeds the best plan so far.

    Args:
        choices: The candidates of each weight.
        limit: Bytes, for weights and charges together.
        charges: Bytes for each width that some weight has; 0 where it is missing.

    Returns:
        The candidate of each weight; those of the fewest bytes where no plan is within the limit.
    """
    table = _Table(choices)
    rivals = []
    for widths in table.sets():
        left = limit - sum(charges.get(bits, 0) for bits in widths)
        rivals.append((*table.bound(widths, left), left, widths))
    best: dict[str, Choice] = {}
    least = (float("inf"), float("inf"))
    for over, bound, left, widths in sorted(rivals, key=lambda rival: rival[:2])[:_MOST_SOLVED]:
        if (over, bound) >= least:
            break
        found = best_within_bytes(table.among(widths), left)
        badness = (max(total_bytes(found, charges) - limit, 0), sum(c.cost for c in found.values()))
        if badness < least:
            best, least = found, badness
    return best


def total_bytes(chosen: Mapping[str, Choice], charges: Charges) -> int:
    """Size of a plan, with the charge of each width in it.

    Args:
        chosen: The candidate of each weight.
        charges: Bytes for each width.

    Returns:
        Bytes.
    """
    widths = {_bits(choice) for choice in chosen.values()}
    return sum(choice.nbytes for choice in chosen.values()) + sum(charges.get(bits, 0) for bits in widths)


def _bits(choice: Choice) -> int:
    """Width of a candidate; 0 where it stays float."""
    return choice.scheme.bits if choice.scheme else 0


class _Table:
    """All candidates as arrays [weights, most candidates of a weight], padded with infinite costs."""

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        shape = len(choices), max(map(len, choices.values()), default=0)
        self._costs, self._bytes = np.full(shape, np.inf), np.zeros(shape)
        self._bits = np.zeros(shape, np.int64)
        for row, own in enumerate(choices.values()):
            self._costs[row, : len(own)] = [c.cost for c in own]
            self._bytes[row, : len(own)] = [c.nbytes for c in own]
            self._bits[row, : len(own)] = [_bits(c) for c in own]

    def sets(self) -> Iterator[tuple[int, ...]]:
        """Sets of widths in which each weight has a candidate."""
        widths = sorted({_bits(c) for own in self._choices.values() for c in own})
        for count in range(1, len(widths) + 1):
            for chosen in combinations(widths, count):
                if self._allowed(chosen).any(axis=1).all():
                    yield chosen

    def among(self, widths: tuple[int, ...]) -> dict[str, list[Choice]]:
        """The candidates of some widths."""
        return {site: [c for c in own if _bits(c) in widths] for site, own in self._choices.items()}

    def bound(self, widths: tuple[int, ...], limit: int) -> tuple[float, float]:
        """Bytes by which the smallest plan of `widths` exceeds `limit`, and a lower bound of the cost within it."""
        allowed = self._allowed(widths)
        costs, nbytes = (np.where(allowed, table, np.inf) for table in (self._costs, self._bytes))
        over = float(nbytes.min(axis=1).sum()) - limit
        if over > 0 or not self._choices:
            return max(over, 0.0), float(costs.min(axis=1).sum())
        return 0.0, lower_bound(costs, nbytes, limit).value

    def _allowed(self, widths: tuple[int, ...]) -> NDArray[np.bool_]:
        return np.asarray(np.isin(self._bits, widths) & np.isfinite(self._costs))
