"""The split of a data set, made once at the start of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mixquant_onnx.data.dataset import Axes, Data, DataSplit, batched, rows_of, take
from mixquant_onnx.data.rows import find_axes
from mixquant_onnx.errors import DataError
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session

FEWEST_ROWS = 16
"""With fewer samples in total, none are held out for evaluation."""

SHARE = 8
"""One of this many samples is for evaluation: calibration on few samples is poor."""

PROMISE_SHARE = 4
"""The same where an accuracy target is evaluated on them."""

_HANDFUL = 8
"""Fewest samples for evaluation, where they are at most a quarter of all."""

_ENOUGH = 768
"""Samples for fitting beyond which more have little effect: the others are for evaluation, up to half of all."""

_SELECTED = 4
"""One of this many remaining samples is for selection."""

_FEEDS = 8
"""From this many batches on, whole batches are assigned: samples of one file may be of one recording."""

_RUN = 4
"""Most neighbouring samples that stay together: they are often alike."""

_SEED = 0
"""Seed of the positions at which samples are drawn, one in each stretch of equal length; the value does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Units:
    """Samples, or whole batches, each of which goes into one part.

    Attributes:
        data: The data set.
        where: (batch, sample) of each unit; sample None for a whole batch.
        sizes: Samples in each.
        labels: Labels of each, or None.
    """

    data: Data
    where: tuple[tuple[int, int | None], ...]
    sizes: NDArray[np.int64]
    labels: list[NDArray[np.int64]] | None

    def part(self, chosen: NDArray[np.bool_]) -> Data:
        """The units that are `chosen`, in order, in batches as large as allowed."""
        feeds: list[Feed] = []
        axes = self.data.axes
        for number, feed in enumerate(self.data.feeds):
            rows = [row for k, (of, row) in enumerate(self.where) if of == number and chosen[k]]
            if rows and (axes is None or None in rows):
                feeds.append(feed)
            elif rows and axes is not None:
                feeds.append(take(feed, axes, [row for row in rows if row is not None]))
        labels = None if self.labels is None else [own for own, c in zip(self.labels, chosen, strict=True) if c]
        joined = None if labels is None else np.concatenate(labels) if labels else np.zeros(0, np.int64)
        return batched(replace(self.data, feeds=tuple(feeds), labels=joined))


def split_data(
    model: ModelProto | Session, data: Data, wants_selection: bool, evaluation: Data | None = None, share: int = SHARE,
    fewest: int = FEWEST_ROWS,
) -> DataSplit:  # fmt: skip
    """Split samples into those for fitting, for selection and for evaluation.

    The batch axis is found by running the model; many batches, and batches that cannot be split, are assigned whole.
    Labels stay with their samples, and each part has its share of every label.

    Args:
        model: The float model.
        data: The samples.
        wants_selection: Whether a part is needed for selection.
        evaluation: The user's own samples for evaluation, so that none are held out; None if there are none.
        share: One of this many samples is for evaluation, and a few at least.
        fewest: With fewer samples none are held out.

    Returns:
        The parts.

    Raises:
        DataError: The number of labels does not fit the number of samples.
    """
    session = _session(model)
    data = with_axes(session, data)
    units = _units(data)
    if evaluation is not None:
        evaluation = batched(with_axes(session, evaluation))
        check_labels(evaluation)
        return _divided(units, np.zeros(len(units.where), np.bool_), wants_selection, evaluation)
    reason = _too_few(units, fewest)
    if reason:
        whole = batched(data)
        divided = _divided(units, np.zeros(len(units.where), np.bool_), wants_selection, whole)
        return replace(divided, in_sample=True, reason=reason)
    wanted = evaluation_rows(data.rows, share)
    count = max(1, round(len(units.where) * wanted / data.rows))
    chosen = _spread(units, np.ones(len(units.where), np.bool_), count)
    return _divided(units, chosen, wants_selection, units.part(chosen))


def evaluation_rows(rows: int, share: int = SHARE) -> int:
    """Number of samples for evaluation.

    Args:
        rows: All samples.
        share: One of this many.

    Returns:
        At least rows // share; more for small and for large data sets.
    """
    return max(rows // share, min(_HANDFUL, rows // 4), min(rows - _ENOUGH, rows // 2))


def halves(data: Data) -> tuple[Data, Data] | None:
    """Two parts of about equal size.

    Args:
        data: The samples.

    Returns:
        The parts; None where the data cannot be split.
    """
    units = _units(data)
    if len(units.where) < 2:
        return None
    chosen = _spread(units, np.ones(len(units.where), np.bool_), len(units.where) // 2)
    return units.part(~chosen), units.part(chosen)


def held_out(data: Data, every: int, run: int = _RUN) -> tuple[Data, Data]:
    """Hold out runs of neighbouring samples at regular intervals.

    Args:
        data: The samples.
        every: One of this many runs is held out.
        run: Samples in a run.

    Returns:
        (samples for learning, held-out samples), without labels.
    """
    parts = batched_by(data, run)
    held = [k % every == every - 1 for k in range(len(parts.feeds))]
    learned, judged = (
        replace(data, feeds=tuple(f for f, h in zip(parts.feeds, held, strict=True) if h == wanted), labels=None)
        for wanted in (False, True)
    )
    return learned, judged


def batched_by(data: Data, rows: int) -> Data:
    """Split the data into batches of a fixed size.

    Args:
        data: The samples.
        rows: Samples per batch; the last part of each original batch may have fewer.

    Returns:
        The same samples; `data` itself where batches cannot be split.
    """
    if not data.axes:
        return data
    cut = [
        take(feed, data.axes, slice(first, first + rows))
        for feed in data.feeds
        for first in range(0, rows_of(feed, data.axes), rows)
    ]
    return replace(data, feeds=tuple(cut))


def with_axes(session: Session | None, data: Data) -> Data:
    """The data with its batch axes, found by running the model.

    Args:
        session: The model; None where it does not load.
        data: The samples.

    Returns:
        `data` itself where the axes are known, or the model does not load.
    """
    if session is None or data.axes is not None:
        return data
    return replace(data, axes=find_axes(session, data.feeds))


def check_labels(data: Data) -> None:
    """Check that there are as many labels as samples, or a fixed number per sample.

    Args:
        data: The samples.

    Raises:
        DataError: The numbers do not fit.
    """
    if data.labels is not None:
        _labels_each(data)


def _labels_each(data: Data) -> list[int]:
    """Number of labels of each batch."""
    assert data.labels is not None
    count = len(data.labels)
    if data.rows and count and count % data.rows == 0:
        return [rows_of(feed, data.axes) * (count // data.rows) for feed in data.feeds]
    if data.axes is None and count and count % len(data.feeds) == 0:
        return [count // len(data.feeds)] * len(data.feeds)
    raise DataError(f"{count} labels for {data.rows} rows of data; give one label a row")


def _session(model: ModelProto | Session) -> Session | None:
    if isinstance(model, Session):
        return model
    try:
        return Session(model)
    except RuntimeFailure:
        return None


def _units(data: Data) -> _Units:
    axes: Axes | None = data.axes if len(data.feeds) < _FEEDS else None
    where: list[tuple[int, int | None]] = []
    sizes: list[int] = []
    labels: list[NDArray[np.int64]] = []
    each = None if data.labels is None else np.split(data.labels, np.cumsum(_labels_each(data))[:-1])
    for number, feed in enumerate(data.feeds):
        rows = rows_of(feed, data.axes)
        where += [(number, row) for row in range(rows)] if axes else [(number, None)]
        sizes += [1] * rows if axes else [rows]
        if each is not None:
            labels += np.split(each[number], rows) if axes else [each[number]]
    known = None if each is None else labels
    return _Units(data=data, where=tuple(where), sizes=np.array(sizes, np.int64), labels=known)


def _too_few(units: _Units, fewest: int) -> str:
    """Why no samples can be held out; empty where they can."""
    rows = int(units.sizes.sum())
    if rows < fewest:
        return f"{rows} {'row is' if rows == 1 else 'rows are'} too few to spare any"
    if len(units.where) < 2:
        return "the model's rows depend on each other, so that one batch cannot be cut"
    return ""


def _divided(units: _Units, held: NDArray[np.bool_], wants_selection: bool, evaluation: Data) -> DataSplit:
    """Split the units that are not `held`: some for selection, where that is wanted and there are four or more."""
    left = ~held
    fitting = units.part(left)
    count = int(left.sum()) // _SELECTED
    if not wants_selection or not count:
        return DataSplit(calibration=fitting, selection=fitting, fitting=fitting, evaluation=evaluation)
    selected = _spread(units, left, count)
    return DataSplit(
        calibration=units.part(left & ~selected),
        selection=units.part(selected),
        fitting=fitting,
        evaluation=evaluation,
    )


def _spread(units: _Units, among: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Draw `count` units of `among`: one run of neighbours, at a random position, in each of equally long stretches.

    Units with one label each are sorted by label, and runs have length one.
    """
    order = np.flatnonzero(among)
    run = max(1, min(_RUN, count // 4))
    if units.labels is not None and all(len(own) == 1 for own in units.labels):
        classes = np.array([int(units.labels[k][0]) for k in order])
        order, run = order[np.argsort(classes, kind="stable")], 1
    random = np.random.default_rng(_SEED)
    runs = -(-count // run)
    chosen = np.zeros(len(among), np.bool_)
    left = count
    for stretch in np.array_split(order, runs):
        taken = min(run, left, len(stretch))
        first = int(random.integers(0, len(stretch) - taken + 1))
        chosen[stretch[first : first + taken]] = True
        left -= taken
    return chosen
