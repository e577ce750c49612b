"""What a model is run on (`Data`), and its division by purpose (`DataSplit`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

BATCH = 32
"""Rows that are run at once, at most, where a feed can be cut: memory, not quality, depends on it."""

Axes = Mapping[str, int]
"""The batch axis of each input that has one; the other inputs are shared by all rows."""


Origin = Literal["user", "proxy", "noise"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """Feeds in order, and labels for all their rows where there are any.

    `origin`: given by the user; `proxy`: not the user's, but of the kind that the model reads; `noise`: random.
    `name`: what the rows are called in messages.
    `axes`: where the rows of a feed are, as found by running the model; None where a feed can only be run whole.
    """

    feeds: tuple[Feed, ...]
    labels: FloatArray | None
    origin: Origin = "user"
    name: str = "rows of your data"
    axes: Axes | None = None

    @property
    def rows(self) -> int:
        """Rows over all feeds; those of its first input for a feed that can only be run whole."""
        return sum(rows_of(feed, self.axes) for feed in self.feeds)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataSplit:
    """One data set by purpose; a step is handed the part that is meant for it.

    calibration: what moments, rounding and costs are fitted to while plans are compared.
    selection: what decides between plans; the calibration rows themselves where none could be spared.
    fitting: both together, for the last solve, when the plan is chosen.
    evaluation: what every figure that is told or promised is of; of no other part, unless `in_sample`.
    in_sample: the evaluation rows were fitted to, because none could be spared: `reason` says why not.
    """

    calibration: Data
    selection: Data
    fitting: Data
    evaluation: Data
    in_sample: bool = False
    reason: str = ""


def undivided(data: Data, in_sample: bool = False, reason: str = "") -> DataSplit:
    """All of `data` for every purpose."""
    return DataSplit(
        calibration=data, selection=data, fitting=data, evaluation=data, in_sample=in_sample, reason=reason
    )


def row_count(feed: Feed) -> int:
    """Rows of the first input; one for a feed without rows."""
    first = next(iter(feed.values()), None)
    return len(first) if isinstance(first, np.ndarray) and first.ndim else 1


def rows_of(feed: Feed, axes: Axes | None) -> int:
    """Rows of `feed`, which lie along `axes`; of its first input where there are none."""
    if not axes:
        return row_count(feed)
    name, axis = next(iter(axes.items()))
    return int(feed[name].shape[axis])


def take(feed: Feed, axes: Axes, rows: Sequence[int] | slice) -> Feed:
    """Some rows of `feed`, with what all rows share."""
    return {n: a[(slice(None),) * axes[n] + (rows,)] if n in axes else a for n, a in feed.items()}


def batched(data: Data, rows: int = BATCH) -> Data:
    """`data` with feeds of at most `rows` rows, about equal within what was one feed, where they can be cut."""
    axes = data.axes
    if not axes:
        return data
    cut: list[Feed] = []
    for feed in data.feeds:
        count = rows_of(feed, axes)
        for part in np.array_split(np.arange(count), max(1, -(-count // rows))):
            cut.append(take(feed, axes, slice(int(part[0]), int(part[-1]) + 1)))
    return replace(data, feeds=tuple(cut))


def thinned(data: Data, rows: int) -> Data:
    """Every n-th feed of `data`, so that they hold about `rows` rows at most; without labels where any are left out."""
    every = max(1, -(-data.rows // rows)) if len(data.feeds) > 1 else 1
    return data if every == 1 else replace(data, feeds=data.feeds[::every], labels=None)
