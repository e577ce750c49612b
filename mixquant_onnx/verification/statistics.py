"""Shares with what is known of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW_ROWS = 20
"""Rows below which a share is not told: of 20 rows that all agree, the true share may still be 84 % (Wilson, 95 %)."""

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share seen in `count` independent trials (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    (0, 1) where there were none.
    """
    if count <= 0:
        return 0.0, 1.0
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """`hits` of `count` decisions in `rows` rows, and the 95 % interval of the share."""

    hits: int
    count: int
    rows: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else 0.0

    @property
    def few(self) -> bool:
        """Whether there are too few rows to tell a share."""
        return self.rows < FEW_ROWS


def share_of(hits: Sequence[int], counts: Sequence[int]) -> Share:
    """The share over rows, the k-th with `hits[k]` of `counts[k]` decisions.

    Decisions of one row (frames of a recording, pixels of a map) are not independent: the interval is that of as many
    independent ones as the spread between rows shows (Kish 1965, design effect), at least one a row.
    """
    h, c = (np.asarray(v, np.float64) for v in (hits, counts))
    rows, total = len(h), float(c.sum())
    if total == 0:
        return Share(hits=0, count=0, rows=rows, low=0.0, high=1.0)
    value = float(h.sum()) / total
    low, high = wilson(value, _independent(h, c, value))
    return Share(hits=int(h.sum()), count=int(total), rows=rows, low=low, high=high)


def _independent(hits: NDArray[np.float64], counts: NDArray[np.float64], value: float) -> float:
    rows, total = len(counts), float(counts.sum())
    if rows == total or rows < 2:
        return float(rows)
    deviation = float(np.sum((hits - value * counts) ** 2)) * rows / (rows - 1)
    if deviation <= 0:
        return total if 0 < value < 1 else float(rows)
    return min(total, max(rows, value * (1 - value) * total**2 / deviation))
