"""Bisection over bits per weight for an accuracy target, with several sensitivities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mixquant_onnx.numerics.granularity import FLOAT_BITS

T = TypeVar("T")

_FIRST_BITS = 4.0
"""Bits per weight of the first trial."""
MOST_BITS = 8.5
"""Bits per weight above which a plan leaves weights float."""

MOST_TRIES = 12
"""Most trials; bounds time."""
CLOSE = 1.03
"""Ratio of bits between a plan that meets the target and one that does not, at which the bisection ends."""

_FIRST_STEP = 1.05
"""Reduction of bits in the first trial of a sensitivity that is tried later."""

_RIVALS = 2
"""Number of sensitivities that start, and continue until one is worse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Result of one trial. `score`: higher is better. Cached results do not count against the trial limit.

    Attributes:
        kept: Whether the target is met.
        score: Quality of the file, in any unit.
        known: Whether the result is cached.
    """

    kept: bool
    score: float
    known: bool = False


def bisect(
    rivals: Sequence[T], judge: Callable[[T, float], Verdict], least: float, guess: float | None = None,
    tries: int = MOST_TRIES,
) -> None:  # fmt: skip
    """Search for the fewest bits that meet the target.

    Args:
        rivals: Sensitivities, the most promising first.
        judge: Runs a trial of a sensitivity at a number of bits per weight; the caller records files that it wants.
        least: Bits per weight of the smallest plan.
        guess: Bits near which the answer is believed to be; None where nothing is known.
        tries: Most trials.
    """
    search = _Bisection(judge, least, late=rivals[_RIVALS:], tries=tries)
    high = search.between(list(rivals[:_RIVALS]), guess)
    if high < float("inf"):
        search.below(high)


def first_bits(least: float) -> float:
    """Bits per weight of the first trial.

    Args:
        least: Bits per weight of the smallest plan.

    Returns:
        At least `least`.
    """
    return max(_FIRST_BITS, least)


class _Bisection(Generic[T]):
    def __init__(self, judge: Callable[[T, float], Verdict], least: float, late: Sequence[T], tries: int) -> None:
        self._judge, self._least, self._late = judge, least, list(late)
        self._left = tries

    def between(self, rivals: list[T], guess: float | None) -> float:
        """The fewest bits at which one of `rivals` meets the target, or infinity; the others are tried later."""
        bits, low, high = max(guess or 0.0, self._least) if guess else first_bits(self._least), 0.0, float("inf")
        step = _FIRST_STEP if guess else 1.5
        while True:
            kept, rivals = self._compete(rivals, bits)
            low, high = (low, bits) if kept else (bits, high)
            if (kept and bits <= self._least * 1.001) or high / max(low, self._least) < CLOSE or self._left <= 0:
                return high
            if high < float("inf"):
                bits = (high * max(low, self._least)) ** 0.5
                bits = max(bits, high / step) if guess and not low else bits
            elif low >= FLOAT_BITS * 0.9:
                return high
            elif low < MOST_BITS * 0.999:
                bits = min(low * step, MOST_BITS)
            else:
                bits = min(low * 1.6, FLOAT_BITS * 0.95)
            step *= step if guess else 1

    def _compete(self, rivals: list[T], bits: float) -> tuple[bool, list[T]]:
        """Whether one of `rivals` meets the target, and those that continue: all if all meet it, else the best."""
        verdicts = [self._try(one, bits) for one in rivals]
        best = max(range(len(rivals)), key=lambda k: (verdicts[k].kept, verdicts[k].score))
        if all(verdict.kept for verdict in verdicts):
            return True, rivals
        self._late += [one for one in rivals if one is not rivals[best]]
        return verdicts[best].kept, [rivals[best]]

    def below(self, high: float) -> None:
        """Use the remaining trials for later sensitivities.

        The first is slightly below `high`, further ones lower while they meet the target.
        """
        for one in self._late:
            step, low = _FIRST_STEP, self._least
            while self._left > 0 and high / low >= CLOSE:
                bits = max(high / step, (high * low) ** 0.5)
                if self._try(one, bits).kept:
                    high, step = bits, step * step
                else:
                    low = bits if step > _FIRST_STEP else high

    def _try(self, one: T, bits: float) -> Verdict:
        """Run one trial; a cached result does not count against the limit."""
        verdict = self._judge(one, bits)
        self._left -= not verdict.known
        return verdict
