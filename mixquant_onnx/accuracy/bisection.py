"""The order in which bits are tried for a promise: from 4 bits up or down, between what is kept and what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mixquant_onnx.numerics.arrays import FLOAT_BITS

T = TypeVar("T")

_FIRST_BITS = 4.0
MOST_BITS = 8.5
"""Bits a weight beyond which a plan leaves weights float."""

_TRIES = 12
_CLOSE = 1.03
"""Ratio of bits between what keeps the promise and what does not, at which the bisection ends."""

_FIRST_STEP = 1.05
"""How much smaller than what is kept the first try of a cost that comes late is."""

_RIVALS = 2
"""Costs that start, and go on until one loses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Of one try. Of two, the higher score is better. What was known before costs no try."""

    kept: bool
    score: float
    known: bool = False


def bisect(rivals: Sequence[T], judge: Callable[[T, float], Verdict], least: float) -> None:
    """Asks `judge` of a rival and bits a weight, at least `least`, again and again; the caller keeps what it liked.

    `rivals` are costs in the order in which they are expected to do well.
    """
    search = _Bisection(judge, least, late=rivals[_RIVALS:])
    high = search.between(list(rivals[:_RIVALS]))
    if high < float("inf"):
        search.below(high)


def first_bits(least: float) -> float:
    """What is tried first, where the smallest plan takes `least` bits a weight."""
    return max(_FIRST_BITS, least)


class _Bisection(Generic[T]):
    def __init__(self, judge: Callable[[T, float], Verdict], least: float, late: Sequence[T]) -> None:
        self._judge, self._least, self._late = judge, least, list(late)
        self._left = _TRIES

    def between(self, rivals: list[T]) -> float:
        """The fewest bits found at which one of `rivals` keeps the promise, or inf; those that lose come late."""
        bits, low, high = first_bits(self._least), self._least, float("inf")
        while True:
            kept, rivals = self._compete(rivals, bits)
            low, high = (low, bits) if kept else (bits, high)
            if (kept and bits <= self._least * 1.001) or high / low < _CLOSE or self._left <= 0:
                return high
            if high < float("inf"):
                bits = max((high * low) ** 0.5, self._least)
            elif low >= FLOAT_BITS * 0.9:
                return high
            elif low < MOST_BITS * 0.999:
                bits = min(low * 1.5, MOST_BITS)
            else:
                bits = min(low * 1.6, FLOAT_BITS * 0.95)

    def _compete(self, rivals: list[T], bits: float) -> tuple[bool, list[T]]:
        """Whether one of `rivals` keeps the promise, and those that go on: all while all keep it, else the best."""
        verdicts = [self._try(one, bits) for one in rivals]
        best = max(range(len(rivals)), key=lambda k: (verdicts[k].kept, verdicts[k].score))
        if all(verdict.kept for verdict in verdicts):
            return True, rivals
        self._late += [one for one in rivals if one is not rivals[best]]
        return verdicts[best].kept, [rivals[best]]

    def below(self, high: float) -> None:
        """Tries that are left go to the late costs: a little below `high`, and further while they keep the promise."""
        for one in self._late:
            step, low = _FIRST_STEP, self._least
            while self._left > 0 and high / low >= _CLOSE:
                bits = max(high / step, (high * low) ** 0.5)
                if self._try(one, bits).kept:
                    high, step = bits, step * step
                else:
                    low = bits if step > _FIRST_STEP else high

    def _try(self, one: T, bits: float) -> Verdict:
        verdict = self._judge(one, bits)
        self._left -= not verdict.known
        return verdict
