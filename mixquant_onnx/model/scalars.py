"""Constants of one float."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from mixquant_onnx.model.constants import elements_of, tensors_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of


def scalars_of(model: ModelProto) -> dict[str, float]:
    """The float32 constants of one element in the main graph, that nobody can replace.

    Args:
        model: The model.

    Returns:
        Values by name.
    """
    given = {value.name for value in model.graph.input}
    return {
        name: float(values_of(tensor).reshape(-1)[0])
        for name, tensor in tensors_of(walk(model)[0]).items()
        if tensor.data_type == TensorProto.FLOAT and elements_of(tensor) == 1 and len(tensor.dims) <= 1
        if name not in given
    }
