"""Section: time and memory of a run against the float model's, with --benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.console import Console

from mixquant_onnx.report.inputs import Run
from mixquant_onnx.verification.latency import Latency, text_of
from mixquant_onnx.verification.memory import Memory
from mixquant_onnx.verification.memory import text_of as text_of_memory


class LatencyData(TypedDict):
    """Lower quartiles for one sample, in milliseconds, with a number of threads."""

    threads: int
    float_ms: float
    written_ms: float


class MemoryData(TypedDict):
    """Bytes that a session adds to a process: after a run, and at most."""

    held: int
    peak: int


class MemoryPair(TypedDict):
    """Of both models."""

    float: MemoryData
    written: MemoryData


class Timing(TypedDict):
    """The keys of this section; `memory` is None where it could not be measured."""

    latency: list[LatencyData]
    memory: MemoryPair | None


def data(run: Run) -> Timing | None:
    """The figures; None where they were not measured."""
    return None if run.result is None else timing_data(run.result.latency, run.result.memory)


def timing_data(measured: Sequence[Latency], memory: tuple[Memory, Memory] | None) -> Timing | None:
    """Times and memory as plain data.

    Args:
        measured: Times with different numbers of threads.
        memory: Of the float model's session and of the other one's.

    Returns:
        Values that JSON has; None where nothing was measured.
    """
    if not measured:
        return None
    times: list[LatencyData] = [
        {"threads": one.threads, "float_ms": one.float_ms, "written_ms": one.written_ms} for one in measured
    ]
    if memory is None:
        return {"latency": times, "memory": None}
    before, after = memory
    return {"latency": times, "memory": {"float": _data(before), "written": _data(after)}}


def _data(found: Memory) -> MemoryData:
    return {"held": found.held, "peak": found.peak}


def render(console: Console, data: Timing) -> None:
    """Print one line for each."""
    console.print(f"time of one row: {text_of([Latency(**one) for one in data['latency']])}")
    if data["memory"] is not None:
        before, after = (Memory(**found) for found in (data["memory"]["float"], data["memory"]["written"]))
        console.print(f"memory of a session: {text_of_memory(before, after)}")
