"""Exact squared errors of many candidates (scale, zero point) for every row, by the faster of two algorithms.

Either weight by weight or, where rows are long and levels few, from prefix sums of the sorted row: the sum over levels
q of (sum x^2 - 2 q sum x + q^2 n) of the n weights x that are rounded to q.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.integers import levels
from mixquant_onnx.numerics.rounding_error import CHUNK
from mixquant_onnx.quantization.ranges.minmax import row_range

Rows = NDArray[np.float32]
Errors = NDArray[np.float64]

WEIGHTS_PER_EDGE = 80
"""Weights in a row per edge between levels, above which prefix sums are faster (measured). Affects speed alone."""

_SHARES = 2.0 ** -np.linspace(0, 10, 64)
"""Shares of the min-max range at which the error of clipping is tabulated; smaller ranges are not searched."""

_FLOAT16 = (2.0**-14, 65408.0)
"""Least and greatest scale that `storable_scale` stores as float16."""


class Candidates(Protocol):
    """Errors of candidates for rows [N, M]."""

    def errors(self, scale: Rows, zero: Rows, top: int) -> Errors:
        """Squared error of candidates.

        Args:
            scale: [K, N], K candidates for each row.
            zero: Zero points [K, N].
            top: The highest code.

        Returns:
            [K, N], summed over the weights of each row.
        """

    def innermost(self, error: Errors) -> Errors:
        """Lower bound of the ends of a range whose error is at most `error`.

        Args:
            error: [N], squared error of each row.

        Returns:
            [2, N], distance from 0 of the lower and of the upper end.
        """


class Direct:
    """Rounds every weight, a chunk that fits in cache at a time.

    Args:
        rows: Weights [N, M].
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.reach: Errors = np.abs(np.stack(row_range(rows))).astype(np.float64)

    def errors(self, scale: Rows, zero: Rows, top: int) -> Errors:
        """See `Candidates`."""
        count, width = self.rows.shape
        at_once = max(1, CHUNK // width)
        result = np.empty(scale.shape)
        inverse, lowest, highest = np.float32(1) / scale, -zero, np.float32(top) - zero
        buffers = np.empty((2, min(at_once, count), width), np.float32)
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            values = self.rows[part]
            x, y = buffers[:, : len(values)]
            for k in range(len(scale)):
                np.multiply(values, inverse[k, part, None], out=x)
                np.rint(x, out=y)
                np.maximum(y, lowest[k, part, None], out=y)
                np.minimum(y, highest[k, part, None], out=y)
                np.subtract(x, y, out=x)
                result[k, part] = np.einsum("ij,ij->i", x, x)
        result *= np.square(scale, dtype=np.float64)
        return result

    def innermost(self, error: Errors) -> Errors:
        """See `Candidates`: the bound that follows from the largest weight alone."""
        return np.asarray(np.maximum(self.reach - np.sqrt(error), self.reach * _SHARES[-1]))


class PrefixSums:
    """Sorts the rows once; each candidate takes one binary search per edge between its levels.

    Args:
        rows: Weights [N, M].
    """

    def __init__(self, rows: Rows) -> None:
        self.width = rows.shape[1]
        values = np.sort(rows, axis=1).astype(np.float64)
        self.ends = np.stack([np.minimum(values[:, 0], 0), np.maximum(values[:, -1], 0)])
        largest = np.abs(self.ends).max(axis=0)
        self.unit = (0.25 / np.where(largest > 0, largest, 1))[:, None]
        # Rows scaled to within a quarter and offset by one each make a single sorted array to search in.
        self.row = np.arange(len(rows))[:, None]
        self.keys = (values * self.unit + self.row).reshape(-1)
        self.sums, squares = np.zeros((2, len(rows), self.width + 1))
        np.cumsum(values, axis=1, out=self.sums[:, 1:])
        np.cumsum(np.square(values, out=values), axis=1, out=squares[:, 1:])
        self.power = squares[:, -1].copy()
        self.clipping = self._clipping(squares)

    def errors(self, scale: Rows, zero: Rows, top: int) -> Errors:
        """See `Candidates`."""
        result = np.empty(scale.shape)
        at_once = max(1, CHUNK // (len(self.row) * top))
        for k in range(0, len(scale), at_once):
            s, z = scale[k : k + at_once].astype(np.float64), zero[k : k + at_once].astype(np.float64)
            edges = np.arange(0.5, top) - z[:, :, None]
            n, place = self._below(edges * s[:, :, None])
            # Across an edge q grows by 1 and q^2 by twice the edge, which turns sums over levels into sums over edges.
            first = (top - z) * self.sums[:, -1] - self.sums.reshape(-1)[place].sum(axis=2)
            second = (top - z) ** 2 * self.width - 2 * np.einsum("knl,knl->kn", edges, n)
            result[k : k + at_once] = self.power - 2 * s * first + s**2 * second
        return result

    def innermost(self, error: Errors) -> Errors:
        """See `Candidates`: the bound that follows from clipping on one side alone."""
        allowed = (self.clipping <= error[:, None]).sum(axis=2)
        return np.asarray(np.abs(self.ends) * _SHARES[np.minimum(allowed, len(_SHARES) - 1)])

    def _below(self, bounds: Errors) -> tuple[Errors, NDArray[np.intp]]:
        """Number of weights below bounds [..., N, T], and the position of their prefix in `sums`."""
        places = np.clip(bounds * self.unit, -0.4, 0.4) + self.row
        found = np.searchsorted(self.keys, places.reshape(-1)).reshape(places.shape)
        return (found - self.row * self.width).astype(np.float64), found + self.row

    def _clipping(self, squares: Errors) -> Errors:
        """Squared error of clipping alone, below 0 and above, at each of _SHARES: [2, N, S]."""
        bounds = self.ends[:, :, None] * _SHARES
        n, place = self._below(bounds)
        s, q = self.sums.reshape(-1)[place], squares.reshape(-1)[place]
        n[1], s[1], q[1] = self.width - n[1], self.sums[:, -1:] - s[1], self.power[:, None] - q[1]
        return np.asarray(q - 2 * bounds * s + bounds**2 * n)


class Choice:
    """The faster algorithm for rows [N, M] at each width; rows are sorted only if needed.

    Args:
        rows: Weights [N, M].
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._made: dict[bool, Candidates] = {}

    def at(self, bits: int) -> Candidates:
        """The algorithm for codes of `bits` bits."""
        long = self.rows.shape[1] > WEIGHTS_PER_EDGE * levels(bits)
        if long not in self._made:
            self._made[long] = PrefixSums(self.rows) if long else Direct(self.rows)
        return self._made[long]


def stored_scale(scale: Rows, half: bool) -> Rows:
    """Scales that can be stored.

    Args:
        scale: Of any shape, positive.
        half: Whether to round up to float16, as `storable_scale` does.

    Returns:
        float32, clipped to the range of the stored type.
    """
    if not half:
        return np.clip(scale, np.finfo(np.float32).tiny, np.finfo(np.float32).max)
    dropped = np.int32((1 << 13) - 1)
    return ((np.clip(scale, *_FLOAT16).view(np.int32) + dropped) & ~dropped).view(np.float32)
