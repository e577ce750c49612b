"""Time and memory of a written model against the float one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.config.parsing import milliseconds_of
from mixquant_onnx.data.dataset import DataSplit, batched
from mixquant_onnx.errors import DataError, SlowError
from mixquant_onnx.runtime.session import Feed, RuntimeFailure
from mixquant_onnx.verification.latency import Latency, latency, text_of
from mixquant_onnx.verification.memory import Memory, memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """What was measured.

    Attributes:
        times: On one sample, with one thread and with two.
        memory: Of the float model's session and of the written one's; None where it cannot be measured.
        notes: Why there is nothing.
        rounds: With a limit of time, all measurements with one thread; `times` has the median.
    """

    times: tuple[Latency, ...] = ()
    memory: tuple[Memory, Memory] | None = None
    notes: tuple[str, ...] = ()
    rounds: tuple[Latency, ...] = ()


_REPEATED = 2
"""Most times that two rounds are added to the first."""

_CLEAR = 1.5
"""Factor between a time and its limit beyond which one round is enough. On a busy machine a file took 0.90 to 1.31 of
its own time."""


def benchmark(original: ModelProto | Path, written: ModelProto | Path, split: DataSplit | None) -> Benchmark:
    """Measure time and memory on one sample.

    Args:
        original: The float model.
        written: The other one.
        split: Samples; None where there are none.

    Returns:
        The figures, or a note why there are none.
    """
    feed = _one_row(split)
    if feed is None:
        return Benchmark(notes=("no times: no input is known that this model runs on; give --data",))
    try:
        return measured(original, written, feed)
    except RuntimeFailure as failure:
        return Benchmark(notes=(f"no times: a model does not run here ({failure})",))


def measured(
    original: ModelProto | Path, written: ModelProto | Path, feed: Feed, limit: str | None = None
) -> Benchmark:
    """Measure time and memory.

    Args:
        original: The float model.
        written: The other one, of the same inputs.
        feed: One sample.
        limit: A limit of time with one thread, such as `1.05x`; None for none.

    Returns:
        The figures.

    Raises:
        RuntimeFailure: A model does not load or run.
    """
    rounds = _rounds(original, written, feed, limit)
    single = rounds[len(rounds) // 2]
    times = (single, latency(original, written, feed, 2))
    before = memory(original, feed)
    after = None if before is None else memory(written, feed)
    pair = None if before is None or after is None else (before, after)
    return Benchmark(times=times, memory=pair, rounds=() if limit is None else rounds)


def _rounds(
    original: ModelProto | Path, written: ModelProto | Path, feed: Feed, limit: str | None
) -> tuple[Latency, ...]:
    """Times with one thread, in order: three where the limit is near, five where it lies within their spread."""
    found = [latency(original, written, feed, 1)]
    if limit is None or not 1 / _CLEAR < _excess(found[0], limit) < _CLEAR:
        return tuple(found)
    for _ in range(_REPEATED):
        found += [latency(original, written, feed, 1), latency(original, written, feed, 1)]
        if len({is_slower(one, limit) for one in found}) == 1:
            break
    return tuple(sorted(found, key=lambda one: _excess(one, limit)))


def _excess(found: Latency, limit: str) -> float:
    """Time of the written model as a multiple of its limit."""
    return found.written_ms / milliseconds_of(limit, found.float_ms)


def check_time(limit: str, original: ModelProto | Path, written: ModelProto | Path, split: DataSplit | None) -> None:
    """Check a limit of time with one sample and one thread.

    Args:
        limit: As --max-ms takes it.
        original: The float model.
        written: The other one.
        split: Samples; None where there are none.

    Raises:
        SlowError: The written model takes longer.
        DataError: That cannot be measured.
    """
    feed = _one_row(split)
    if feed is None:
        raise DataError("--max-ms needs an input that this model runs on; give --data")
    try:
        found = latency(original, written, feed)
    except RuntimeFailure as failure:
        raise DataError(f"--max-ms cannot be measured: the model does not run here ({failure})") from failure
    if is_slower(found, limit):
        raise SlowError(f"--max-ms {limit} is not reached: {text_of([found])}")


def is_slower(found: Latency, limit: str) -> bool:
    """Whether a written model takes longer than a limit of time, such as `12` milliseconds or `0.5x` of float's."""
    return found.written_ms > milliseconds_of(limit, found.float_ms)


def _one_row(split: DataSplit | None) -> Feed | None:
    return batched(split.evaluation, 1).feeds[0] if split is not None and split.evaluation.feeds else None
