"""Quality: the outputs of a written model compared with the float model's on the same batches, output by output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mixquant_onnx.data.dataset import Data, rows_of
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.numerics.noise import PartNoise, decibels, noises_of
from mixquant_onnx.numerics.outputs import Array, Outputs, Pair, pairs_of
from mixquant_onnx.runtime.session import Profile, Session
from mixquant_onnx.verification.labels import accuracy
from mixquant_onnx.verification.next_tokens import TokenOutput
from mixquant_onnx.verification.statistics import Share, share_of
from mixquant_onnx.verification.token_quality import TokenQuality, token_quality

THRESHOLD = 0.5
"""Scores above it count as detections: the usual threshold of detectors and segmentation maps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of an output with a scale of its own (`numerics.parts`).

    Attributes:
        slices: Which part, such as `[:, 4-83]`; empty for the whole output.
        sqnr_db: SQNR in dB.
        peak: The largest magnitude in the float model.
        largest_change: The largest change of one value.
        scores: Of the values above `THRESHOLD` in either model, the share that is so in both; only where all values
            are from 0 to 1.
    """

    slices: str
    sqnr_db: float
    peak: float
    largest_change: float
    scores: Share | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputQuality:
    """One output.

    Attributes:
        name: Name of the output.
        parts: Its parts, where it is numeric.
        decisions: Share of equal decisions, where it holds classes or labels.
        what: What the decisions are: classes ("top-1"), or integers and strings ("values").
        cosine: Cosine similarity to the float output, over all batches.
        changed_shapes: Number of batches in which the shape differs.
        feeds: Number of batches.
        invalid: Number of values that are NaN where the float model's are not.
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
        """Lowest SQNR in dB of the parts; None if not numeric, or all zero; -inf where a shape differs."""
        if self.what == "values":
            return None
        if self.changed_shapes:
            return -math.inf
        return min((part.sqnr_db for part in self.parts), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The written model compared with the float model.

    Attributes:
        profile: Options of the runtime (`runtime.session`).
        outputs: Each output.
        accuracy_share: Top-1 accuracy of the written model, where there are labels.
        tokens: Distributions of the next token, where the model gives them.
    """

    profile: Profile
    outputs: tuple[OutputQuality, ...]
    accuracy_share: Share | None
    tokens: TokenQuality | None = None

    @property
    def sqnr_db(self) -> float | None:
        """Lowest SQNR in dB of the outputs; None where no output is numeric."""
        return min((o.sqnr_db for o in self.outputs if o.sqnr_db is not None), default=None)

    @property
    def mean_sqnr_db(self) -> float | None:
        """SQNR in dB of the noise-to-signal ratio, averaged over the parts of an output and then over the outputs."""
        means = []
        for output in self.outputs:
            if output.sqnr_db is not None:
                lost = output.sqnr_db == -math.inf
                means.append(math.inf if lost else float(np.mean([10 ** (-p.sqnr_db / 10) for p in output.parts])))
        return decibels(float(np.mean(means))) if means else None

    @property
    def cosine(self) -> float | None:
        """Lowest cosine similarity of the numeric outputs."""
        return min((o.cosine for o in self.outputs if o.cosine is not None), default=None)

    @property
    def agreement(self) -> Share | None:
        """The lowest share of equal decisions over the outputs of classes or labels."""
        shares = [o.decisions for o in self.outputs if o.decisions is not None]
        return min(shares, key=lambda share: share.value, default=None)

    @property
    def top1_agreement(self) -> float | None:
        """Value of `agreement`, from 0 to 1, for any number of samples."""
        return None if self.agreement is None else self.agreement.value

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy, from 0 to 1; None without labels."""
        return None if self.accuracy_share is None else self.accuracy_share.value

    @property
    def changed_shapes(self) -> tuple[OutputQuality, ...]:
        """The outputs whose shape differs in some batch."""
        return tuple(o for o in self.outputs if o.changed_shapes)

    @property
    def invalid(self) -> tuple[OutputQuality, ...]:
        """The outputs with NaN where the float model has none."""
        return tuple(o for o in self.outputs if o.invalid)


def session_quality(
    reference: Outputs, session: Session, data: Data, axes: Mapping[str, int], tokens: TokenOutput | None = None
) -> Quality:
    """Run a written model and compare its outputs with the float model's.

    Args:
        reference: Outputs of the float model on `data`, for each batch in order.
        session: The written model; its profile is that of the result.
        data: The samples.
        axes: Class axis, by name of the output (`classes.class_axes`).
        tokens: Where the float model gives the distribution of the next token (`next_tokens.token_output`).

    Returns:
        The quality of each output, and accuracy where there are labels.
    """
    rows = [rows_of(feed, data.axes) for feed in data.feeds]
    other = run_all(session, data)
    found = quality_of(session.profile, reference, other, session.outputs, axes, data.labels, rows)
    return found if tokens is None else replace(found, tokens=token_quality(tokens, data, reference, other))


def quality_of(
    profile: Profile,
    reference: Outputs,
    other: Outputs,
    names: Sequence[str],
    axes: Mapping[str, int],
    labels: Array | None = None,
    rows: Sequence[int] | None = None,
) -> Quality:
    """Compare the outputs of a written model with the float model's.

    Args:
        profile: Options of the runtime that `other` was computed under.
        reference: Outputs of the float model, for each batch in order.
        other: Outputs of the written model on the same batches.
        names: Names of the outputs, in order.
        axes: Class axis, by name of the output (`classes.class_axes`).
        labels: Class of each sample, [N].
        rows: Samples of each batch. An output whose first dimension differs counts as one sample per batch.

    Returns:
        The quality of each output, and accuracy where there are labels.
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
    """Counts decisions by sample: how many there are, and how many are equal."""

    def __init__(self) -> None:
        self._hits: list[int] = []
        self._counts: list[int] = []

    def add(self, hits: Array, decisions: Array, rows: int | None) -> None:
        """Add one batch of `rows` samples; it counts as one sample where the first dimension differs."""
        by_row = hits.ndim > 0 and len(hits) > 0 and rows in (None, len(hits))
        shape = (len(hits), -1) if by_row else (1, -1)
        self._hits += [int(n) for n in hits.reshape(shape).sum(1)]
        self._counts += [int(n) for n in decisions.reshape(shape).sum(1)]

    def share(self) -> Share:
        """The share of equal decisions over all rows added."""
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
    """Share of equal values; none are equal in a batch in which the shape differs. None where there are no values."""
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
