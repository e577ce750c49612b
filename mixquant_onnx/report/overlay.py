"""Node data for Google's Model Explorer: bits, error and bytes of each layer, from the summary alone.

Source:
    ai-edge-model-explorer 0.1, node_data_builder: results by graph, and output tensor or node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

from mixquant_onnx.report.sections.weights import TensorData
from mixquant_onnx.report.summary import Summary


class Value(TypedDict):
    """The value of one node."""

    value: float


class Stop(TypedDict):
    """A colour at a share of the range of values."""

    stop: float
    bgColor: str


class GraphData(TypedDict):
    """Values of one graph, by the name of an output tensor or node."""

    name: str
    results: dict[str, Value]
    gradient: list[Stop]


Overlay = dict[str, GraphData]
"""By the name of the graph."""


def _bits(tensor: TensorData, _: Summary) -> float | None:
    return float(tensor["bits"])


def _bytes(tensor: TensorData, _: Summary) -> float | None:
    return float(tensor["nbytes"])


def _error(tensor: TensorData, _: Summary) -> float | None:
    return tensor["qe"]


def _sqnr(tensor: TensorData, _: Summary) -> float | None:
    value = tensor["sqnr_db"]
    return None if isinstance(value, str) else value


def _sensitivity(tensor: TensorData, summary: Summary) -> float | None:
    return summary["sensitivity"]["shares"].get(tensor["name"]) if "sensitivity" in summary else None


def _keys(tensor: TensorData) -> list[str]:
    """Names by which a viewer may look for the layers: the ONNX adapter 0.4 knows nodes, others their outputs."""
    return [*tensor["outputs"], *tensor["nodes"]]


_RED, _BLUE, _WHITE, _YELLOW = "#d6604d", "#4393c3", "#ffffff", "#d9a521"

VALUES: Mapping[str, tuple[Callable[[TensorData, Summary], float | None], str, str]] = {
    "bits": (_bits, _RED, _BLUE),
    "sqnr_db": (_sqnr, _RED, _BLUE),
    "qe": (_error, _WHITE, _RED),
    "bytes": (_bytes, _WHITE, _YELLOW),
    "sensitivity": (_sensitivity, _WHITE, _RED),
}
"""By the name of the file: the value, and the colours of the least and of the largest one."""


def overlays(summary: Summary) -> dict[str, Overlay]:
    """One overlay for each kind of value.

    Args:
        summary: The summary of a run or of a plan.

    Returns:
        What is written as JSON, by the name of the file without its ending.
    """
    made: dict[str, Overlay] = {}
    for name, (value_of, low, high) in VALUES.items():
        found = [(tensor, value_of(tensor, summary)) for tensor in summary["tensors"]]
        results: dict[str, Value] = {
            key: {"value": value} for tensor, value in found if value is not None for key in _keys(tensor)
        }
        gradient: list[Stop] = [{"stop": 0, "bgColor": low}, {"stop": 1, "bgColor": high}]
        made[name] = {summary["graph"]: {"name": name, "results": results, "gradient": gradient}}
    return made
