"""Section: how the weights lie on their grids. It is only in the summary, where a report or --json was asked for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TypedDict, cast

from rich.console import Console

from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.step_histogram import step_histogram
from mixquant_onnx.report.inputs import Run


class HistogramData(TypedDict):
    """A `numerics.step_histogram.StepHistogram`: values of one weight in steps of their scales."""

    start: float
    width: float
    counts: list[int]
    lowest: int
    highest: int
    clipped: float


class Histograms(TypedDict):
    """The key of this section: histograms by the name of the weight."""

    histograms: dict[str, HistogramData]


def data(run: Run) -> Histograms | None:
    """The histograms of a run; None for a plan, and where no details are wanted."""
    if run.result is None or not run.detail:
        return None
    return {
        "histograms": {
            name: cast(HistogramData, asdict(step_histogram(weight_values(run.planned.sites[name]), quantized)))
            for name, quantized in run.result.quantized.items()
        }
    }


def render(console: Console, data: Histograms) -> None:
    """Print nothing: a histogram is for a picture."""
