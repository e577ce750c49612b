"""Lagrangian bound of a multiple-choice knapsack, and the multiplier that attains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
"""[weights, most candidates of a weight]; infinite where a weight has no such candidate."""

_RANGE = 30.0
"""Natural logarithm of the largest ratio between the multiplier and (span of values) / (span of needs)."""

_HALVINGS = 40
"""Bisections of `_RANGE`: 10 digits of the multiplier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A lower bound of the sum of values, over all choices whose needs are within the limit.

    Attributes:
        value: The bound.
        price: The multiplier: value per unit of need.
    """

    value: float
    price: float


def lower_bound(values: Table, needs: Table, limit: float) -> Bound:
    """The maximum over prices p of sum_i min_k (value[i, k] + p x need[i, k]) - p x limit.

    Args:
        values: [weights, candidates], what is to be small.
        needs: [weights, candidates], what is limited.
        limit: Largest sum of needs.

    Returns:
        The bound and its price.

    Source:
        Sinha and Zoltners 1979, "The multiple-choice knapsack problem": the Lagrangian relaxation.
    """
    real = np.isfinite(values)
    best = Bound(value=float(values.min(axis=1).sum()), price=0.0)
    spans = np.ptp(values[real]), np.ptp(needs[real])
    if not min(spans) > 0:
        return best
    rows = np.arange(len(values))
    scale = np.log(spans[0]) - np.log(spans[1])
    low, high = scale - _RANGE, scale + _RANGE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        price = float(np.exp(middle))
        priced = values + price * needs
        picked = priced.argmin(axis=1)
        value = float(priced[rows, picked].sum()) - price * limit
        best = Bound(value=value, price=price) if value > best.value else best
        over = needs[rows, picked].sum() > limit
        low, high = (middle, high) if over else (low, middle)
    return best
