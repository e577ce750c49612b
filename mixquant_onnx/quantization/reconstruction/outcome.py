"""What became of a block. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Squared error of a block's output before (layer by layer) and after, on rows that were not learned from; the
    share of weights left open; the iterations that it took."""

    before: float
    after: float
    still_open: float
    iterations: int
