"""Quantization of an onnx_graphsurgeon Graph in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from mixquant_onnx import api
from mixquant_onnx.result import RunResult

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mixquant_onnx.keywords import Keywords


def quantize(graph: gs.Graph, **options: Unpack[Keywords]) -> RunResult:
    """Quantize the weights of a graph, verify the result, and put it in the place of the graph's content.

    Args:
        graph: The graph; its nodes, inputs and outputs are new objects afterwards, its names stay.
        **options: As of `mixquant_onnx.quantize`.

    Returns:
        The plan and the verification; its `model` is what the graph then holds.

    Raises:
        MixquantError: See `errors`; the graph is as it was then.
    """
    result = api.quantize(graph, **options)
    written = gs.import_onnx(result.model)
    for name, value in vars(written).items():
        setattr(graph, name, value)
    return result
