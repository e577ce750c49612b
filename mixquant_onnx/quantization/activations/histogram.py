"""Histograms of values that arrive batch by batch, in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Bins of a histogram: 16 to 32 for each of 256 codes over the range of the values."""


_MOST = 1 << 17
"""Most elements of an array that are counted: bounds the time."""


class Histogram:
    """Counts of values in bins of equal width, symmetric around 0.

    The range doubles when a value is outside; two neighbours are then one bin. Of large arrays evenly spaced elements
    are counted; the smallest and the largest value are those of all.

    Attributes:
        low: The smallest value; at most 0.
        high: The largest value; at least 0.
        usable: Whether all values were finite.
        total: Number of values.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.usable = True
        self.total = 0
        self._reach = 0.0
        self._counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.generic]) -> None:
        """Count the elements of an array.

        Args:
            values: Of any shape and float type.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.usable = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += flat.size
        self._widen(max(-self.low, self.high))
        self._counts += np.bincount(self._places(flat[:: _step(flat.size)]), minlength=BINS)

    def _places(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """The bin of each value; where all were 0, the one above 0."""
        shares = values.astype(np.float64) / (self._reach or 1.0)
        return np.clip((shares + 1) * (BINS // 2), 0, BINS - 1).astype(np.int64)

    def _widen(self, reach: float) -> None:
        """Double the range until it covers `reach`."""
        if self._reach == 0:
            self._reach = reach
        while self._reach < reach:
            self._reach *= 2
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros(BINS, np.int64)
            self._counts[BINS // 4 : 3 * BINS // 4] = pairs

    def merge(self, other: Histogram) -> None:
        """Count the values of another histogram too, each at the middle of its bin.

        Args:
            other: The histogram; its bins may have another width.
        """
        self.usable = self.usable and other.usable
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self._widen(max(-self.low, self.high))
        middles, counts = other.counts()
        np.add.at(self._counts, self._places(middles), counts)

    def counts(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The bins that hold values.

        Returns:
            Middles of the bins, ascending, and their counts.
        """
        filled = np.flatnonzero(self._counts)
        return ((filled + 0.5) / (BINS // 2) - 1) * self._reach, self._counts[filled]


def _step(size: int) -> int:
    """Distance of counted elements: a prime, so that it does not follow the axes of the array."""
    step = -(-size // _MOST)
    while any(step % k == 0 for k in range(2, int(step**0.5) + 1)):
        step += 1
    return step
