"""Spend one budget over all layers: a multiple-choice knapsack on the convex hull, then single exchanges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import SiteErrors


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One candidate of a site: what it costs in quality (any additive unit) and in bytes. No scheme: float."""

    scheme: Scheme | None
    cost: float
    nbytes: int


def relative_error(errors: SiteErrors, qe: float) -> float:
    """QE / mean(w^2), the `energy` cost; 0 for a layer of zeros."""
    return qe / errors.power if errors.power > 0 else 0.0


Choices = Mapping[str, Sequence[Choice]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """From one hull point of a site to its next smaller one."""

    site: str
    smaller: Choice
    cost: float
    saved: int


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull, from the cheapest in quality to the smallest."""
    ordered = sorted(choices, key=lambda c: (c.nbytes, c.cost))
    front: list[Choice] = []
    for choice in ordered:
        if front and choice.cost >= front[-1].cost:
            continue
        while len(front) >= 2 and _slope(front[-2], front[-1]) <= _slope(front[-1], choice):
            front.pop()
        front.append(choice)
    return front[::-1]


def _slope(smaller: Choice, larger: Choice) -> float:
    """Quality gained for a byte."""
    return (smaller.cost - larger.cost) / (larger.nbytes - smaller.nbytes)


def _steps(choices: Choices) -> tuple[dict[str, Choice], list[_Step]]:
    start, steps = {}, []
    for site, candidates in choices.items():
        points = hull(candidates)
        start[site] = points[0]
        steps += [
            _Step(site=site, smaller=b, cost=b.cost - a.cost, saved=a.nbytes - b.nbytes) for a, b in pairwise(points)
        ]
    return start, sorted(steps, key=lambda step: step.cost / step.saved)


def smallest_within_cost(choices: Choices, budget: float) -> dict[str, Choice]:
    """The fewest bytes whose summed cost is at most `budget`; the least cost where none is."""
    chosen, steps = _steps(choices)
    total = sum(choice.cost for choice in chosen.values())
    stopped: set[str] = set()
    for step in steps:
        if step.site in stopped:
            continue
        if total + step.cost <= budget:
            total += step.cost
            chosen[step.site] = step.smaller
        else:
            stopped.add(step.site)
    return _better(choices, chosen, lambda c: (float(c.nbytes), c.cost), budget)


def best_within_bytes(choices: Choices, limit: int) -> dict[str, Choice]:
    """The least summed cost whose bytes are at most `limit`; the fewest bytes where none is."""
    chosen, steps = _steps(choices)
    nbytes = sum(choice.nbytes for choice in chosen.values())
    for step in steps:
        if nbytes <= limit:
            break
        nbytes -= step.saved
        chosen[step.site] = step.smaller
    return _better(choices, chosen, lambda c: (c.cost, float(c.nbytes)), float(limit))


Split = Callable[[Choice], tuple[float, float]]
"""A choice as (what is to be small, what is limited)."""


_CELLS = 20_000
"""How finely the limited quantity is divided by the table of partial sums."""


def _better(choices: Choices, greedy: dict[str, Choice], split: Split, limit: float) -> dict[str, Choice]:
    """The better of the hull's answer and that of the table, each improved by exchanges."""
    found = [_improve(choices, greedy, split, limit)]
    tabled = _tabled(choices, split, limit)
    if tabled is not None:
        found.append(_improve(choices, tabled, split, limit))
    kept = [plan for plan in found if sum(split(c)[1] for c in plan.values()) <= limit]
    return min(kept or found[:1], key=lambda plan: sum(split(c)[0] for c in plan.values()))


def _tabled(choices: Choices, split: Split, limit: float) -> dict[str, Choice] | None:
    """Multiple-choice knapsack by dynamic programming on needs rounded up; None where nothing fits so."""
    if not limit > 0:
        return None
    least = np.zeros(_CELLS + 1)
    picks: list[tuple[str, list[Choice], list[int], NDArray[np.int8]]] = []
    for site, candidates in choices.items():
        options = list(candidates)
        needs = [int(np.ceil(split(c)[1] / limit * _CELLS * (1 - 1e-12))) for c in options]
        sums = np.full((len(options), _CELLS + 1), np.inf)
        for k, (option, need) in enumerate(zip(options, needs, strict=True)):
            if need <= _CELLS:
                sums[k, need:] = least[: _CELLS + 1 - need] + split(option)[0]
        picks.append((site, options, needs, sums.argmin(axis=0).astype(np.int8)))
        least = sums.min(axis=0)
    if not np.isfinite(least[-1]):
        return None
    chosen, left = {}, _CELLS
    for site, options, needs, best in reversed(picks):
        k = int(best[left])
        chosen[site], left = options[k], left - needs[k]
    return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    site: str
    to: Choice
    gain: float
    needs: float


def _improve(choices: Choices, chosen: dict[str, Choice], split: Split, limit: float) -> dict[str, Choice]:
    """Change one site, or two at once, as long as that gains and the limit holds."""
    while True:
        slack = limit - sum(split(choice)[1] for choice in chosen.values())
        if slack < 0:
            return chosen
        found = _best_moves(_moves(choices, chosen, split), slack)
        if not found:
            return chosen
        for move in found:
            chosen[move.site] = move.to


def _moves(choices: Choices, chosen: Mapping[str, Choice], split: Split) -> list[_Move]:
    moves = []
    for site, candidates in choices.items():
        now = split(chosen[site])
        for other in candidates:
            then = split(other)
            if other is not chosen[site]:
                moves.append(_Move(site=site, to=other, gain=now[0] - then[0], needs=then[1] - now[1]))
    return moves


def _best_moves(moves: list[_Move], slack: float) -> list[_Move]:
    """The one or two moves that gain most within `slack`; none where nothing gains."""
    best, most = [], 0.0
    giving = sorted((m for m in moves if m.needs < 0), key=lambda m: m.needs)
    for move in moves:
        if move.needs <= slack and move.gain > most * (1 + 1e-12):
            best, most = [move], move.gain
        if move.gain <= most:
            continue
        for other in giving:
            if move.needs + other.needs > slack:
                break
            if other.site != move.site and move.gain + other.gain > most * (1 + 1e-12):
                best, most = [move, other], move.gain + other.gain
    return best
