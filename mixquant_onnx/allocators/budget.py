"""Spend one budget over all layers: a multiple-choice knapsack on the convex hull, then single exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mixquant_onnx.types import Scheme


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One candidate of a site: what it costs in quality (any additive unit) and in bytes."""

    scheme: Scheme
    cost: float
    nbytes: int


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
    return _exchange(choices, chosen, budget=budget)


def best_within_bytes(choices: Choices, limit: int) -> dict[str, Choice]:
    """The least summed cost whose bytes are at most `limit`; the fewest bytes where none is."""
    chosen, steps = _steps(choices)
    nbytes = sum(choice.nbytes for choice in chosen.values())
    for step in steps:
        if nbytes <= limit:
            break
        nbytes -= step.saved
        chosen[step.site] = step.smaller
    if nbytes > limit:
        return chosen
    return _exchange(choices, chosen, limit=limit)


def _exchange(
    choices: Choices, chosen: dict[str, Choice], budget: float | None = None, limit: int | None = None
) -> dict[str, Choice]:
    """Improve by one choice at a time, then by two at once, while the promise holds."""
    improved = True
    while improved:
        improved = _single(choices, chosen, budget, limit)
    return chosen


def _single(choices: Choices, chosen: dict[str, Choice], budget: float | None, limit: int | None) -> bool:
    cost = sum(c.cost for c in chosen.values())
    nbytes = sum(c.nbytes for c in chosen.values())
    best: tuple[float, str, Choice] | None = None
    for site, candidates in choices.items():
        now = chosen[site]
        for other in candidates:
            if budget is not None:
                gain: float = now.nbytes - other.nbytes
                fits = cost - now.cost + other.cost <= budget or other.cost < now.cost
            else:
                gain = now.cost - other.cost
                fits = limit is not None and nbytes - now.nbytes + other.nbytes <= limit
            if fits and gain > 0 and (best is None or gain > best[0]):
                best = (gain, site, other)
    if best is None:
        return False
    chosen[best[1]] = best[2]
    return True
