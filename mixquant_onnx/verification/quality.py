"""One model against the float model on the same feeds, output by output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixquant_onnx.numerics.noise import PartNoise, decibels, noises_of
from mixquant_onnx.numerics.outputs import Array, Outputs, Pair, arrays_of, is_numbers, pairs_of
from mixquant_onnx.runtime.session import Profile
from mixquant_onnx.verification.statistics import Share, share_of

THRESHOLD = 0.5
"""A score above it is taken as a detection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of an output with a scale of its own (`numerics.parts`).

    `slices`: which, such as `[:, 4-83]`, empty for the whole. `peak`: the largest magnitude in float. `largest_change`:
    of one value. `scores`: those above 0.5 in either model that are so in both, where all values are from 0 to 1.
    """

    slices: str
    sqnr_db: float
    peak: float
    largest_change: float
    scores: Share | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputQuality:
    """One output. `parts`: of numbers, compared in dB; `decisions`: of classes or labels, compared one by one.

    `changed_shapes`: feeds in which the shape differs, of `feeds`. `invalid`: values that are NaN where float's are
    not. `compared`: whether anything was.
    """

    name: str
    parts: tuple[Part, ...]
    decisions: Share | None
    what: Literal["top-1", "values", ""]
    cosine: float | None
    changed_shapes: int
    feeds: int
    invalid: int

    @property
    def sqnr_db(self) -> float | None:
        """Of the worst part; None where it is not of numbers or all are zero; -inf where shapes differ, or for NaN."""
        if self.what == "values":
            return None
        if self.changed_shapes:
            return -math.inf
        return min((part.sqnr_db for part in self.parts), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The written model against the float model in one profile."""

    profile: Profile
    outputs: tuple[OutputQuality, ...]
    accuracy_share: Share | None

    @property
    def sqnr_db(self) -> float | None:
        """Of the worst part of the worst output; None where no output is of numbers; -inf where a shape differs."""
        return min((o.sqnr_db for o in self.outputs if o.sqnr_db is not None), default=None)

    @property
    def mean_sqnr_db(self) -> float | None:
        """Of the noise as a share of each part's own signal, averaged over the parts of each output, then outputs."""
        means = []
        for output in self.outputs:
            if output.sqnr_db is not None:
                lost = output.sqnr_db == -math.inf
                means.append(math.inf if lost else float(np.mean([10 ** (-p.sqnr_db / 10) for p in output.parts])))
        return decibels(float(np.mean(means))) if means else None

    @property
    def cosine(self) -> float | None:
        """The lowest over the outputs of numbers."""
        return min((o.cosine for o in self.outputs if o.cosine is not None), default=None)

    @property
    def agreement(self) -> Share | None:
        """The lowest share of equal decisions over the outputs of classes or labels."""
        shares = [o.decisions for o in self.outputs if o.decisions is not None]
        return min(shares, key=lambda share: share.value, default=None)

    @property
    def top1_agreement(self) -> float | None:
        """The share of `agreement`, from however few rows."""
        return None if self.agreement is None else self.agreement.value

    @property
    def accuracy(self) -> float | None:
        return None if self.accuracy_share is None else self.accuracy_share.value

    @property
    def changed_shapes(self) -> tuple[OutputQuality, ...]:
        return tuple(o for o in self.outputs if o.changed_shapes)

    @property
    def invalid(self) -> tuple[OutputQuality, ...]:
        return tuple(o for o in self.outputs if o.invalid)


def measure(
    profile: Profile,
    reference: Outputs,
    other: Outputs,
    names: Sequence[str],
    axes: Mapping[str, int],
    labels: Array | None = None,
    rows: Sequence[int] | None = None,
) -> Quality:
    """`other` against the float outputs `reference`. `axes`: where classes are (`classes.class_axes`).

    `rows`: of each feed. An output with another first dimension is one row a feed where its decisions are counted.
    """
    outputs = tuple(_output(pair, axes.get(pair.name), rows) for pair in pairs_of(reference, other, names))
    return Quality(profile=profile, outputs=outputs, accuracy_share=accuracy(other, names, axes, labels))


def _output(pair: Pair, axis: int | None, rows: Sequence[int] | None) -> OutputQuality:
    invalid = sum(int(np.sum(np.isnan(b) & ~np.isnan(a))) for a, b in pair.same_shape if b.dtype.kind == "f")
    parts: tuple[Part, ...] = ()
    decisions, cosine = None, None
    if pair.numbers:
        noises = [n for n in noises_of(pair) if n.signal > 0 or n.noise > 0]
        parts = tuple(_part(n, pair, rows) for n in noises)
        decisions = None if axis is None else _top1(pair, axis, rows)
        cosine = _cosine(pair) if noises else None
    else:
        decisions = _by_row(pair, rows)
    what: Literal["top-1", "values", ""] = "values" if not pair.numbers else "" if decisions is None else "top-1"
    return OutputQuality(
        name=pair.name,
        parts=parts,
        decisions=decisions,
        what=what,
        cosine=cosine,
        changed_shapes=pair.changed_shapes,
        feeds=len(pair.reference),
        invalid=invalid,
    )


def _part(noise: PartNoise, pair: Pair, rows: Sequence[int] | None) -> Part:
    scores = None
    if noise.part.scores:
        counted = _Counted()
        for k, (a, b) in enumerate(zip(pair.reference, pair.other, strict=True)):
            before = np.asarray(noise.part.of(a) > THRESHOLD)
            same = b is not None and b.shape == a.shape
            after = np.asarray(noise.part.of(b) > THRESHOLD) if same and b is not None else np.zeros_like(before)
            counted.add(before & after, before | after, _given(rows, k))
        scores = counted.share()
    return Part(
        slices=noise.part.words,
        sqnr_db=noise.sqnr_db,
        peak=noise.part.peak,
        largest_change=noise.largest,
        scores=scores,
    )


class _Counted:
    """Decisions by row: `hits` of `counts`."""

    def __init__(self) -> None:
        self._hits: list[int] = []
        self._counts: list[int] = []

    def add(self, hits: Array, decisions: Array, rows: int | None) -> None:
        """Of one feed of `rows` rows; all of it is one row where the first dimension is another."""
        by_row = hits.ndim > 0 and len(hits) > 0 and rows in (None, len(hits))
        shape = (len(hits), -1) if by_row else (1, -1)
        self._hits += [int(n) for n in hits.reshape(shape).sum(1)]
        self._counts += [int(n) for n in decisions.reshape(shape).sum(1)]

    def share(self) -> Share:
        return share_of(self._hits, self._counts)


def _given(rows: Sequence[int] | None, feed: int) -> int | None:
    return None if rows is None else rows[feed]


def _top1(pair: Pair, axis: int, rows: Sequence[int] | None) -> Share:
    counted = _Counted()
    for k, (a, b) in enumerate(zip(pair.reference, pair.other, strict=True)):
        wanted = np.asarray(np.argmax(a, axis))
        hits = np.zeros(wanted.shape, np.bool_)
        if b is not None and a.shape == b.shape:
            hits = np.asarray((np.argmax(b, axis) == wanted) & ~np.isnan(b).any(axis))
        counted.add(hits, np.ones_like(hits), _given(rows, k))
    return counted.share()


def _by_row(pair: Pair, rows: Sequence[int] | None) -> Share | None:
    """Equal values; a feed in which the shape differs has none."""
    counted = _Counted()
    for k, (a, b) in enumerate(zip(pair.reference, pair.other, strict=True)):
        hits = np.asarray(a == b) if b is not None and a.shape == b.shape else np.zeros(a.shape, np.bool_)
        counted.add(hits, np.ones_like(hits), _given(rows, k))
    share = counted.share()
    return share if share.count else None


def _cosine(pair: Pair) -> float | None:
    dot = first = second = 0.0
    for a, b in pair.same_shape:
        x, y = (np.where(np.isfinite(v), v, 0).astype(np.float64).reshape(-1) for v in (a, b))
        dot, first, second = dot + float(x @ y), first + float(x @ x), second + float(y @ y)
    return dot / math.sqrt(first * second) if first * second > 0 else None


def accuracy(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int], labels: Array | None) -> Share | None:
    """How many of `labels` are met by the first output with one decision a row, or, where none is known, [N, classes].

    None without labels or such an output.
    """
    if labels is None:
        return None
    found = decided(outputs, names, axes)
    if found is None or len(found) != len(labels):
        return None
    return share_of([int(hit) for hit in found == labels], [1] * len(labels))


def decided(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int]) -> Array | None:
    """The class of each row: of the first output [N, classes], or of integers [N]; None where there is none."""
    feeds = [arrays_of(feed, names) for feed in outputs]
    by_axis = [name for name, axis in axes.items() if axis == 1]
    others = [name for name in feeds[0] if name not in by_axis]
    for name in [*by_axis, *others]:
        arrays = [feed[name] for feed in feeds if name in feed]
        if len(arrays) == len(feeds):
            rows = [_classes(a) for a in arrays]
            found = [r for r in rows if r is not None]
            if len(found) == len(rows):
                return np.concatenate(found)
    return None


def _classes(array: Array) -> Array | None:
    if is_numbers(array):
        return array.argmax(1) if array.ndim == 2 and array.shape[1] > 1 else None
    single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return array.reshape(-1) if single and array.dtype.kind in "iu" else None
