"""Collection of the statistics of a weight's inputs over batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.moments import Matrices, Moments, SecondMoments, moments_of

_AT_ONCE = 2048
"""Samples that are multiplied at once: small products are slow. Affects speed and rounding alone."""

_BYTES_AT_ONCE = 64 << 20
"""Most bytes of samples that wait for it (64 MiB): 2048 samples of a wide depthwise convolution are 240 MB."""


def _products(left: Matrices, right: Matrices) -> Matrices:
    """left^T right for each group; for one group a plain product, which BLAS halves when both are the same array."""
    if len(left) == 1:
        return np.asarray((left[0].T @ right[0])[None], np.float32)
    return np.asarray(np.matmul(left.transpose(0, 2, 1), right), np.float32)


def _joined(parts: list[Matrices]) -> Matrices:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


_WIDEST_SPLIT = 4096
"""Widest input for which statistics of halves are collected: they take as much memory as the whole."""


class Accumulator:
    """Running sums of one weight's inputs over batches; float64 across batches.

    Args:
        full: Whether to sum products of all pairs of inputs, or only squares.
        split: Whether to collect halves too, where there is more than one batch.
    """

    def __init__(self, full: bool = True, split: bool = False) -> None:
        self._full, self._split = full, full and split
        self._sums = (_Sums(full), _Sums(full))
        self._feeds = 0

    def add(self, rows: Matrices, reference: Matrices | None = None) -> None:
        """Add the samples of one batch.

        Args:
            rows: Inputs [groups, n, K] of the current model.
            reference: The same samples of the float model; None where both are the same.
        """
        apart = self._split and rows.shape[2] <= _WIDEST_SPLIT
        self._sums[self._feeds % 2 if apart else 0].add(rows, reference)
        self._feeds += 1

    def result(self) -> SecondMoments | Moments | None:
        """The statistics so far.

        Returns:
            SecondMoments if `full`, else Moments; None where nothing was added, or a sum is not finite.
        """
        one, two = self._sums
        if not self._full:
            return one.moments()
        if not two.samples:
            return one.second_moments()
        halves = one.second_moments(), two.second_moments()
        one.join(two)
        whole = one.second_moments()
        if whole is None or halves[0] is None or halves[1] is None:
            return None
        return replace(whole, halves=(halves[0], halves[1]))


class _Sums:
    """The sums of one half."""

    def __init__(self, full: bool) -> None:
        self._full = full
        self._sums: list[NDArray[np.float64]] | None = None
        self.samples = 0
        self._ends: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._waiting: list[tuple[Matrices, Matrices | None]] = []

    def add(self, rows: Matrices, reference: Matrices | None) -> None:
        self._waiting.append((rows, reference))
        self.samples += rows.shape[1]
        waiting = sum(added.shape[1] for added, _ in self._waiting)
        size = waiting * rows.nbytes // max(rows.shape[1], 1)
        if waiting >= _AT_ONCE or size * (1 if reference is None else 2) >= _BYTES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = _joined([rows for rows, _ in self._waiting])
        references = [reference for _, reference in self._waiting if reference is not None]
        self._waiting = []
        with np.errstate(invalid="ignore", over="ignore"):  # sums that are not finite are not used
            self._sum(rows, references)

    def _sum(self, rows: Matrices, references: list[Matrices]) -> None:
        square = _products(rows, rows) if self._full else np.einsum("gnk,gnk->gk", rows, rows)
        if not self._full:
            low, high = self._ends or (np.float32(np.inf), np.float32(-np.inf))
            self._ends = np.minimum(rows.min(axis=1), low), np.maximum(rows.max(axis=1), high)
        parts = [square, rows.sum(axis=1)]
        if references:
            parts.append(_products(_joined(references), rows))
        if self._sums is None:
            self._sums = [np.asarray(part, np.float64) for part in parts]
        else:
            for total, part in zip(self._sums, parts, strict=True):
                total += part

    def join(self, other: _Sums) -> None:
        """Add the sums of `other`, which is empty afterwards."""
        if self._sums is not None and other._sums is not None:
            for total, part in zip(self._sums, other._sums, strict=True):
                total += part
            self.samples += other.samples
        other._sums = None

    def _means(self) -> list[NDArray[np.float32]] | None:
        self._flush()
        if self._sums is None:
            return None
        with np.errstate(invalid="ignore"):
            # A sum of finite terms is finite, and needs no array of booleans.
            if not all(np.isfinite(total.sum()) for total in self._sums):
                return None
        means = [np.empty(total.shape, np.float32) for total in self._sums]
        for total, mean in zip(self._sums, means, strict=True):
            np.divide(total, self.samples, out=mean, casting="same_kind")
        return means

    def moments(self) -> Moments | None:
        means = self._means()
        if means is None or self._ends is None:
            return None
        one_signed = (self._ends[0] >= 0) | (self._ends[1] <= 0)
        return replace(moments_of(means[1], means[0]), one_signed=one_signed)

    def second_moments(self) -> SecondMoments | None:
        means = self._means()
        if means is None:
            return None
        square, mean, *cross = means
        return SecondMoments(matrix=square, mean=mean, samples=self.samples, cross=cross[0] if cross else None)
