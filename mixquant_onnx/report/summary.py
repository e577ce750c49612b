"""The summary of a run as plain data: what --json writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast

from mixquant_onnx.report import sections
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.sections import Part
from mixquant_onnx.report.sections.blocks import BlockData
from mixquant_onnx.report.sections.compatibility import Opset, Releases
from mixquant_onnx.report.sections.header import TrialData
from mixquant_onnx.report.sections.held import HeldData
from mixquant_onnx.report.sections.histograms import HistogramData
from mixquant_onnx.report.sections.integers import IntegerData
from mixquant_onnx.report.sections.left_float import LeftFloatShare, SkippedTensor
from mixquant_onnx.report.sections.sensitivity import SensitivityData
from mixquant_onnx.report.sections.timing import LatencyData, MemoryPair
from mixquant_onnx.report.sections.verification import VerificationData
from mixquant_onnx.report.sections.weights import TensorData


class PlanSummary(TypedDict):
    """The keys of every summary, in their order."""

    format: int
    versions: dict[str, str]
    graph: str
    goal: str | None
    options: dict[str, Any]
    settings: dict[str, Any]
    nbytes_before: int
    weights: int
    average_bits: float
    bits: dict[str, int]
    tensors: list[TensorData]
    skipped: list[SkippedTensor]
    left_float: LeftFloatShare
    notes: list[str]


class Summary(PlanSummary, total=False):
    """The schema of --json.

    The further keys are present only for a run, `trials` only with an accuracy target, `integers` only with layers on
    integers, `weights_in_memory` only with --for memory, `latency` and `memory` only with --benchmark; `blocks` only
    for `inspect --blocks`; `sensitivity` and `histograms` only where a file of the summary or of figures is written.
    """

    trials: list[TrialData]
    sensitivity: SensitivityData
    histograms: dict[str, HistogramData]
    nbytes_after: int
    latency: list[LatencyData]
    memory: MemoryPair | None
    integers: IntegerData
    opset: Opset
    files: list[str]
    releases: Releases
    weights_in_memory: HeldData
    verification: VerificationData | None
    hints: list[str]
    blocks: list[BlockData]


def summary_of(parts: Sequence[Part]) -> Summary:
    """The data of all sections in one dictionary.

    Args:
        parts: The sections with their data.

    Returns:
        Keys in the order of `Summary`; unknown keys come last.
    """
    merged = {key: value for part in parts for key, value in part.data.items()}
    order = [*PlanSummary.__annotations__, *Summary.__annotations__]
    return cast(Summary, dict(sorted(merged.items(), key=lambda item: _place(order, item[0]))))


def summarize(run: Run) -> Summary:
    """The summary of a run.

    Args:
        run: A plan and its result.

    Returns:
        What --json writes.
    """
    return summary_of(sections.parts_of(run))


def _place(order: Sequence[str], key: str) -> int:
    return order.index(key) if key in order else len(order)
