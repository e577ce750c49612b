"""Shares and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW_ROWS = 20
"""Samples below which no share is reported: where 20 of 20 agree, the true share may be 84 % (Wilson, 95 %)."""

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % score interval of a proportion.

    Args:
        share: Observed share of successes, from 0 to 1.
        count: Number of independent trials; need not be whole.

    Returns:
        Lower and upper end, from 0 to 1; (0, 1) where there were no trials.

    Source:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference; Brown, Cai and DasGupta
        (2001), Interval Estimation for a Binomial Proportion, equation 4.
    """
    if count <= 0:
        return 0.0, 1.0
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of decisions with its 95 % confidence interval.

    Attributes:
        hits: Equal or correct decisions.
        count: All decisions.
        rows: Samples that they are from.
        low: Lower end of the interval, from 0 to 1.
        high: Upper end of the interval, from 0 to 1.
    """

    hits: int
    count: int
    rows: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, from 0 to 1; 0 if there are no decisions."""
        return self.hits / self.count if self.count else 0.0

    @property
    def few(self) -> bool:
        """Whether there are too few samples to report a share."""
        return self.rows < FEW_ROWS


def share_of(hits: Sequence[int], counts: Sequence[int]) -> Share:
    """The share over samples whose decisions may depend on each other (frames of a recording, pixels of a map).

    The interval is that of the effective number of independent decisions, which is estimated from the variance between
    samples and is at least one per sample.

    Args:
        hits: Successes in each sample.
        counts: Decisions in each sample.

    Returns:
        The share with its interval.

    Source:
        Kish (1965), Survey Sampling: the design effect of cluster samples.
    """
    h, c = (np.asarray(v, np.float64) for v in (hits, counts))
    rows, total = len(h), float(c.sum())
    if total == 0:
        return Share(hits=0, count=0, rows=rows, low=0.0, high=1.0)
    value = float(h.sum()) / total
    low, high = wilson(value, _independent(h, c, value))
    return Share(hits=int(h.sum()), count=int(total), rows=rows, low=low, high=high)


def _independent(hits: NDArray[np.float64], counts: NDArray[np.float64], value: float) -> float:
    """The effective number of independent decisions."""
    rows, total = len(counts), float(counts.sum())
    if rows == total or rows < 2:
        return float(rows)
    deviation = float(np.sum((hits - value * counts) ** 2)) * rows / (rows - 1)
    if deviation <= 0:
        return total if 0 < value < 1 else float(rows)
    return min(total, max(rows, value * (1 - value) * total**2 / deviation))
