"""Milliseconds of a written model against the float one: interleaved runs, lower quartiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from mixquant_onnx.runtime.session import Feed, Session

_ROUNDS = 21
"""Runs of each model."""

_QUARTILE = 0.25
"""Other processes only add time: of one file against itself on a busy machine, the ratio of medians had a standard
deviation of 0.42, that of lower quartiles of 0.03."""

_LEAST_SECONDS = 2e-3
"""Shortest time that is taken at once: quick models are run several times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Lower quartile of the time of a run on one sample.

    Attributes:
        threads: Threads of one operator.
        float_ms: Milliseconds of the float model.
        written_ms: Milliseconds of the written one.
    """

    threads: int
    float_ms: float
    written_ms: float

    @property
    def ratio(self) -> float:
        """Time of the written model as a share of the float model's."""
        return self.written_ms / self.float_ms


def latency(original: ModelProto | Path, written: ModelProto | Path, feed: Feed, threads: int = 1) -> Latency:
    """Time two models in turn, under ONNX Runtime's default options but for threads.

    Args:
        original: The float model.
        written: The other one, of the same inputs.
        feed: A batch.
        threads: Threads of one operator.

    Returns:
        The lower quartiles.

    Raises:
        RuntimeFailure: A model does not load or run.
    """
    sessions = [Session(model, threads=threads) for model in (original, written)]
    counts = [_count(session, feed) for session in sessions]
    times: list[list[float]] = [[], []]
    for turn in range(_ROUNDS):
        for k in (0, 1) if turn % 2 == 0 else (1, 0):
            times[k].append(_seconds(sessions[k], feed, counts[k]))
    float_ms, written_ms = (1000 * float(np.quantile(found, _QUARTILE)) for found in times)
    return Latency(threads=threads, float_ms=float_ms, written_ms=written_ms)


def _seconds(session: Session, feed: Feed, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        session.run(feed)
    return (time.perf_counter() - start) / count


def _count(session: Session, feed: Feed) -> int:
    """Runs that take long enough to be timed; the first run of all is not counted, as it allocates."""
    session.run(feed)
    return max(1, int(_LEAST_SECONDS / max(_seconds(session, feed, 1), 1e-7)))


def text_of(found: Sequence[Latency]) -> str:
    """One line on times.

    Args:
        found: Times with different numbers of threads.

    Returns:
        Text without a line break.
    """
    parts = [f"{one.written_ms:.3g} ms, {one.ratio:.2f} of float's ({one.threads} thread{'s' * (one.threads > 1)})"
             for one in found]  # fmt: skip
    return "; ".join(parts)
