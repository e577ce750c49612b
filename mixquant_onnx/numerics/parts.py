"""Parts of an output that differ in scale, found from the float model's outputs alone.

One SQNR over box coordinates up to 320 and class scores up to 1 does not reflect errors of the scores. The slices of an
output along one axis are sorted by their largest magnitude, and split where it jumps. Logits, probabilities and hidden
states have no such jump and stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.numerics.outputs import Array

APART = 10.0
"""Ratio of largest magnitudes above which two parts have different scales. With 10, an SQNR of 20 dB over both may hide
that the smaller part is entirely wrong.
"""

_LEAST_ELEMENTS = 16
"""Fewest values in a slice for an estimate of its scale."""

_LEAST_SHARE = 1 / 32
"""Smallest share of the slices that makes a part; fewer are outliers or dead channels."""

_LEAST_SCORE = 0.1
"""Smallest maximum of a part of scores; below it, the part holds only background."""

_ROUNDING = 64
"""A part below this many units of rounding of the largest value is rounding noise of the float model itself."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slices:
    """Slices of an output along one axis.

    Attributes:
        axis: The axis; None for the whole output.
        index: Positions of the slices along `axis`, sorted.
        peak: Largest finite magnitude in them.
        scores: Whether all values lie between 0 and 1.
    """

    axis: int | None
    index: Array
    peak: float
    scores: bool

    def of(self, array: Array) -> Array:
        """The slices of `array`, in the order of `index`."""
        return array if self.axis is None else np.take(array, self.index, self.axis)

    @property
    def words(self) -> str:
        """The slices in words, such as `[:, 4-83]`; empty for a whole output."""
        if self.axis is None:
            return ""
        runs = np.split(self.index, np.flatnonzero(np.diff(self.index) > 1) + 1)
        texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
        shown = ",".join(texts) if len(texts) <= 3 else f"{texts[0]},{texts[1]},…,{texts[-1]}"
        return f"[{':, ' * self.axis}{shown}]"


def parts_of(arrays: Sequence[Array]) -> tuple[Slices, ...]:
    """The parts of one output that differ in scale.

    Args:
        arrays: Values of the output from the float model, one per batch.

    Returns:
        The parts, the largest scale first; a single one where there is no jump in scale. At most one axis is split,
        never the first: the one with the largest jump.
    """
    whole = _whole(arrays)
    found: tuple[Slices, ...] = (whole,)
    widest = APART
    rank = arrays[0].ndim
    if any(a.ndim != rank for a in arrays) or not np.issubdtype(arrays[0].dtype, np.floating) or whole.scores:
        return found
    for axis in range(1, rank):
        sizes = {a.shape[axis] for a in arrays}
        if len(sizes) != 1 or sum(a.size for a in arrays) < _LEAST_ELEMENTS * max(sizes):
            continue
        parts, jump = _cut(arrays, axis, whole.peak)
        if jump > widest:
            found, widest = parts, jump
    return found


def _whole(arrays: Sequence[Array]) -> Slices:
    peaks, scores = [0.0], True
    for a in arrays:
        values = finite_or_zero(a)
        if values.size:
            low, high = float(values.min()), float(values.max())
            peaks.append(max(abs(low), abs(high)))
            scores = scores and low >= 0 and high <= 1
    scores = scores and np.issubdtype(arrays[0].dtype, np.floating)
    return Slices(axis=None, index=np.zeros(0, np.int64), peak=max(peaks), scores=bool(scores))


def _cut(arrays: Sequence[Array], axis: int, top: float) -> tuple[tuple[Slices, ...], float]:
    """The parts along `axis`, and the largest ratio between neighbours in scale."""
    low, high = _ranges(arrays, axis)
    peaks = np.maximum(np.abs(low), np.abs(high))
    scores = (low >= 0) & (high <= 1)
    least = _ROUNDING * float(np.finfo(arrays[0].dtype).eps) * top
    groups: list[Array] = []
    jumps: list[float] = []
    order = np.argsort(peaks, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        last = end == len(order)
        below = float(peaks[order[end - 1]])
        ratio = 0.0 if last else float(peaks[order[end]]) / max(below, least, 1e-300)
        if not last and ratio < APART:
            continue
        group = np.sort(order[start:end])
        if last or _counts(group, scores, below, least, len(order)):
            groups.append(group)
            jumps += [] if last else [ratio]
            start = end
    if len(groups) > 1 and len(groups[-1]) < _LEAST_SHARE * len(order) and not scores[groups[-2]].all():
        groups[-2:] = [np.sort(np.concatenate(groups[-2:]))]
        jumps.pop()
    return (
        tuple(
            Slices(axis=axis, index=g, peak=float(peaks[g].max()), scores=bool(scores[g].all())) for g in groups[::-1]
        ),
        max(jumps, default=0.0),
    )


def _counts(group: Array, scores: Array, peak: float, least: float, total: int) -> bool:
    """Whether the slices below a jump are a part of their own, and not outliers or background."""
    if scores[group].all():
        return peak >= _LEAST_SCORE
    return peak > least and len(group) >= _LEAST_SHARE * total


def finite_or_zero(array: Array) -> Array:
    """`array` with 0 in place of NaN and infinities; `array` itself where there are none."""
    if not np.issubdtype(array.dtype, np.floating) or array.size == 0:
        return array
    ends = float(array.min()), float(array.max())
    return array if np.isfinite(ends).all() else np.where(np.isfinite(array), array, array.dtype.type(0))


def _ranges(arrays: Sequence[Array], axis: int) -> tuple[Array, Array]:
    """Least and largest finite value of each slice over all feeds; 0 where there is none."""
    lows, highs = [], []
    for a in (a for a in arrays if a.size):
        others = tuple(k for k in range(a.ndim) if k != axis)
        finite = finite_or_zero(a)
        lows.append(finite.min(others))
        highs.append(finite.max(others))
    return np.min(lows, 0).astype(np.float64), np.max(highs, 0).astype(np.float64)
