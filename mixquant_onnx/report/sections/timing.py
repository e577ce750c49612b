"""Section: time of a run against the float model's, with --benchmark."""

from __future__ import annotations

from typing import TypedDict

from rich.console import Console

from mixquant_onnx.report.inputs import Run
from mixquant_onnx.verification.latency import Latency, text_of


class LatencyData(TypedDict):
    """Medians for one sample, in milliseconds, with a number of threads."""

    threads: int
    float_ms: float
    written_ms: float


class Timing(TypedDict):
    """The key of this section."""

    latency: list[LatencyData]


def data(run: Run) -> Timing | None:
    """The times; None where they were not measured."""
    if run.result is None or not run.result.latency:
        return None
    return {
        "latency": [
            {"threads": one.threads, "float_ms": one.float_ms, "written_ms": one.written_ms}
            for one in run.result.latency
        ]
    }


def render(console: Console, data: Timing) -> None:
    """Print one line."""
    console.print(f"time of one row: {text_of([Latency(**one) for one in data['latency']])}")
