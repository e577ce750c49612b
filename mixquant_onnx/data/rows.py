"""Find the batch axes of a model's inputs by running it: names of dimensions differ between exporters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

import numpy as np

from mixquant_onnx.data.dataset import Axes, rows_of, take
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session

_TRIED_ROWS = 4
"""Samples that are run, together and in two parts."""

_MOST_TRIES = 8
"""Most hypotheses that are tested; most models need one."""

_LARGEST_NOISE = 1e-4
"""Squared difference of a sample alone to the same sample in a batch, relative to its square (40 dB), up to which both
are considered equal. Kernels differ by batch size: float32 leaves 100 dB and more, float16 about 50; a mean over the
batch that contributes a tenth leaves 20 (tests/test_data_rows.py).
"""


def find_axes(session: Session, feeds: Sequence[Feed]) -> Axes | None:
    """The batch axis of each input that has one.

    An axis is the batch axis where the model gives the same results for a part of the batch as for the whole. A model
    whose outputs are random is judged by their shapes. Costs the time of 8 samples; a few attempts more for time-major
    inputs, and for models whose samples depend on each other.

    Args:
        session: The model.
        feeds: Batches.

    Returns:
        Axes by name of the input; None where samples depend on each other, or no batch has two.
    """
    longest = max(feeds, key=_longest, default={})
    for axes, count in islice(_readings(longest), _MOST_TRIES):
        if _separable(session, longest, axes, count) and _fits_all(feeds, axes):
            return axes
    return None


def _longest(feed: Feed) -> int:
    return max((len(a) for a in feed.values() if isinstance(a, np.ndarray) and a.ndim), default=0)


def _readings(feed: Feed) -> Iterator[tuple[dict[str, int], int]]:
    """Possible batch axes, the likeliest first, with the number of samples.

    The second axis is tried only where the first has two entries or more: [1, T, F] is one sample, whatever the model
    does along T.
    """
    arrays = {name: a for name, a in feed.items() if isinstance(a, np.ndarray) and a.ndim}
    firsts = [a.shape[0] for a in arrays.values()]
    seconds = [a.shape[1] for a in arrays.values() if a.ndim > 2 and a.shape[0] > 1]
    sizes = [n for n in dict.fromkeys([*sorted(firsts, key=firsts.count, reverse=True), *seconds]) if n > 1]
    for count in sizes:
        choices = [[*(axis for axis, n in enumerate(a.shape) if n == count), None] for a in arrays.values()]
        for chosen in product(*choices):
            axes = {name: axis for name, axis in zip(arrays, chosen, strict=True) if axis is not None}
            if axes:
                yield axes, count


def _fits_all(feeds: Sequence[Feed], axes: Axes) -> bool:
    """Whether every batch has these axes, of equal length in each input."""
    for feed in feeds:
        if any(feed[name].ndim <= axis for name, axis in axes.items()):
            return False
        if any(feed[name].shape[axis] != rows_of(feed, axes) for name, axis in axes.items()):
            return False
    return True


def _separable(session: Session, feed: Feed, axes: Axes, count: int) -> bool:
    """Whether the model gives for one sample, and for the others, the same as for all of them together."""
    rows = min(count, _TRIED_ROWS)
    together = take(feed, axes, slice(0, rows))
    try:
        whole = session.run(together)
        parts = [session.run(take(feed, axes, part)) for part in (slice(0, 1), slice(1, rows))]
        if _joined(whole, parts, exactly=True):
            return True
        again = session.run(together)
    except RuntimeFailure:
        return False
    repeats = all(_same(a, b) for a, b in zip(whole, again, strict=True))
    return not repeats and _joined(whole, parts, exactly=False)


def _joined(whole: Sequence[Any], parts: Sequence[Sequence[Any]], exactly: bool) -> bool:
    """Whether each output of `whole` is the concatenation of those of `parts`; if not `exactly`, by its shape alone."""
    return all(_one_joined(w, list(p), exactly) for w, *p in zip(whole, *parts, strict=True))


def _one_joined(whole: Any, parts: list[Any], exactly: bool) -> bool:
    if isinstance(whole, list):
        if len(whole) == sum(map(len, parts)):
            return not exactly or _same(whole, [item for part in parts for item in part])
        return all(len(part) == len(whole) for part in parts) and all(
            _one_joined(w, list(p), exactly) for w, *p in zip(whole, *parts, strict=True)
        )
    if not isinstance(whole, np.ndarray):
        return all(_same(whole, part) for part in parts)
    for axis in range(whole.ndim):
        others = [tuple(np.delete(a.shape, axis)) for a in (whole, *parts) if a.ndim == whole.ndim]
        adds = len(others) == len(parts) + 1 and len(set(others)) == 1
        if adds and whole.shape[axis] == sum(part.shape[axis] for part in parts):
            return not exactly or _same(whole, np.concatenate(parts, axis))
    return all(_same(whole, part) for part in parts)


def _same(one: Any, other: Any) -> bool:
    """Whether arrays, lists and maps are equal up to rounding of floats."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fc":
        return bool(np.mean(a == b) > 0.99) if a.size else True
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    noise = float(np.sum(np.square(a[finite] - b[finite])))
    return noise <= _LARGEST_NOISE * float(np.sum(np.square(a[finite])))
