"""The IR version that a model needs."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from mixquant_onnx.export.opset import opset_of

FUNCTIONS_FROM_IR = 8
"""The first IR version with model-local functions (onnx.proto, IR_VERSION)."""

FOUR_BITS_FROM_IR = 10
"""The first IR version with UINT4, which opset 21 has."""

INPUTS_ARE_FREE_FROM_IR = 4
"""The first IR version whose initializers need not be inputs of the graph."""


def raise_ir(model: ModelProto, with_functions: bool = False) -> list[str]:
    """Raise the IR version to what functions, types and opsets of a model need.

    Args:
        model: The model; it is changed.
        with_functions: Whether it has model-local functions.

    Returns:
        Notes on what changed for users of the model.
    """
    needed = FUNCTIONS_FROM_IR if with_functions else 0
    if opset_of(model) >= 21:
        needed = FOUR_BITS_FROM_IR
    needed = max(needed, onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    before = model.ir_version
    if before >= needed:
        return []
    model.ir_version = needed
    if before >= INPUTS_ARE_FREE_FROM_IR:
        return []
    _drop_inputs_of_initializers(model)
    return [f"IR version {before} raised to {needed}: initializers are no longer listed as inputs"]


def _drop_inputs_of_initializers(model: ModelProto) -> None:
    """In IR 3 every initializer is listed as an input; from IR 4 on that would let the caller replace it."""
    stored = {tensor.name for tensor in model.graph.initializer}
    computed = {name for node in model.graph.node for name in node.output}
    kept = [value for value in model.graph.input if value.name not in stored | computed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
