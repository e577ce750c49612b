"""The price of the limited quantity at which a multiple-choice knapsack is bounded best, and that bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
"""[sites, most candidates of a site]; infinite where a site has no such candidate."""

_RANGE = 30.0
"""Natural logarithm of how far the price may be from (span of values) / (span of needs)."""

_HALVINGS = 40
"""Of `_RANGE`: the price to 10 digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """No choice of one candidate a site whose needs are within the limit has a sum of values below `value`.

    `price`: value given for a unit of need, at which that is so.
    """

    value: float
    price: float


def lower_bound(values: Table, needs: Table, limit: float) -> Bound:
    """The largest over prices p of sum_i min_k (value[i, k] + p x need[i, k]) - p x limit.

    Args:
        values: What is to be small, of each candidate.
        needs: What is limited, of each candidate.
        limit: Of the summed needs.

    Source: the Lagrangian relaxation of the multiple-choice knapsack (Sinha and Zoltners 1979).
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
