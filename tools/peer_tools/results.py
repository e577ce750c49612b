"""What a quantizer made of a model, and which result counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 0.01 + 1e-9
SMALLER, LARGER = 0.98, 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Float:
    """The float model: its size and its figure."""

    nbytes: int
    figure: float
    lower_is_better: bool

    def loss(self, figure: float) -> float:
        """Relative to float; negative where `figure` is better."""
        change = (figure - self.figure) / self.figure
        return change if self.lower_is_better else -change

    def unchanged(self, nbytes: int) -> str | None:
        """What to say of a file that is not smaller by more than a rewrite alone makes it."""
        if nbytes < SMALLER * self.nbytes:
            return None
        return "unchanged" if nbytes < LARGER * self.nbytes else "larger than float"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run; where `figure` and `loss` are None, `note` says why."""

    peer: str
    mode: str
    source: str
    nbytes: int | None = None
    figure: float | None = None
    loss: float | None = None
    note: str = ""


def smallest(results: Iterable[Result]) -> Result | None:
    """The smallest file that loses at most 1 %."""
    kept = (r for r in results if r.nbytes is not None and r.loss is not None and r.loss <= KEPT)
    return min(kept, key=lambda r: r.nbytes or 0, default=None)


def nearest(results: Iterable[Result]) -> Result | None:
    """The one that loses least."""
    return min((r for r in results if r.loss is not None), key=lambda r: r.loss or 0.0, default=None)


def better(first: Result, second: Result) -> Result:
    """Of two runs of one mode: the smallest that keeps the figure, else the nearest, else the first."""
    return smallest((first, second)) or nearest((first, second)) or first
