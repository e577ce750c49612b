"""Samples that a model is run on (`Data`), and their split by purpose (`DataSplit`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

BATCH = 32
"""Most samples per batch, where batches can be split. Affects memory, not results."""

BATCH_BYTES = 2 << 20
"""Most bytes of inputs per batch (2 MiB, 3 pictures of 224 x 224), where batches can be split: values inside of image
models are several times larger than inputs. Batches of 4 MiB take 110 MB more on EfficientNet-Lite0, and as much time.
"""

Axes = Mapping[str, int]
"""The batch axis of each input that has one; other inputs are shared by all samples."""


Origin = Literal["user", "proxy", "noise"]
"""Where data comes from: the user, proxy inputs, or random noise."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """Batches in order, with labels for all their samples where there are any.

    Attributes:
        feeds: The batches: inputs of the model by name.
        labels: One integer per sample (or a fixed number per sample), or None.
        origin: `user`: given by the user; `proxy`: generated, of the kind that the model reads; `noise`: random.
        name: What messages call the samples.
        axes: The batch axes, as found by running the model; None where a batch can only be run whole.
    """

    feeds: tuple[Feed, ...]
    labels: FloatArray | None
    origin: Origin = "user"
    name: str = "rows of your data"
    axes: Axes | None = None

    @property
    def rows(self) -> int:
        """Number of samples; for a batch that can only be run whole, the length of its first input."""
        return sum(rows_of(feed, self.axes) for feed in self.feeds)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataSplit:
    """One data set, split by purpose; each step gets the part that is meant for it.

    Attributes:
        calibration: For moments, rounding and sensitivities while plans are compared.
        selection: For choosing between plans; equal to `calibration` where no samples could be spared.
        fitting: Both together, for the final solve of the chosen plan.
        evaluation: For all reported metric values and accuracy targets; disjoint from the others unless `in_sample`.
        in_sample: Whether the evaluation samples were also fitted to, because none could be spared.
        reason: Why none could be spared; "" if not `in_sample`.
    """

    calibration: Data
    selection: Data
    fitting: Data
    evaluation: Data
    in_sample: bool = False
    reason: str = ""


def undivided(data: Data, in_sample: bool = False, reason: str = "") -> DataSplit:
    """All of `data` for every purpose.

    Args:
        data: The samples.
        in_sample: See `DataSplit`.
        reason: See `DataSplit`.

    Returns:
        The split.
    """
    return DataSplit(
        calibration=data, selection=data, fitting=data, evaluation=data, in_sample=in_sample, reason=reason
    )


def row_count(feed: Feed) -> int:
    """Length of the first input of a batch; one if it has no axes."""
    first = next(iter(feed.values()), None)
    return len(first) if isinstance(first, np.ndarray) and first.ndim else 1


def rows_of(feed: Feed, axes: Axes | None) -> int:
    """Number of samples in a batch.

    Args:
        feed: The batch.
        axes: Its batch axes; None for the length of its first input.

    Returns:
        The number of samples.
    """
    if not axes:
        return row_count(feed)
    name, axis = next(iter(axes.items()))
    return int(feed[name].shape[axis])


def take(feed: Feed, axes: Axes, rows: Sequence[int] | slice) -> Feed:
    """Some samples of a batch, with the inputs that all samples share.

    Args:
        feed: The batch.
        axes: Its batch axes.
        rows: Positions of the samples.

    Returns:
        A batch.
    """
    return {n: a[(slice(None),) * axes[n] + (rows,)] if n in axes else a for n, a in feed.items()}


def batched(data: Data, rows: int = BATCH) -> Data:
    """Split the data into batches of at most BATCH_BYTES, about equal within each original batch.

    Args:
        data: The samples.
        rows: Most samples per batch.

    Returns:
        The same samples; `data` itself where batches cannot be split.
    """
    axes = data.axes
    if not axes:
        return data
    cut: list[Feed] = []
    for feed in data.feeds:
        count = rows_of(feed, axes)
        each = sum(feed[name].nbytes for name in axes) // max(count, 1)
        most = min(rows, max(1, BATCH_BYTES // max(each, 1)))
        for part in np.array_split(np.arange(count), max(1, -(-count // most))):
            cut.append(take(feed, axes, slice(int(part[0]), int(part[-1]) + 1)))
    return replace(data, feeds=tuple(cut))


def thinned(data: Data, rows: int) -> Data:
    """Every n-th batch of the data.

    Args:
        data: The samples.
        rows: Approximate limit on the number of samples.

    Returns:
        `data`, or fewer batches without labels.
    """
    every = max(1, -(-data.rows // rows)) if len(data.feeds) > 1 else 1
    return data if every == 1 else replace(data, feeds=data.feeds[::every], labels=None)
