"""Float models with dequantized weights in place of the stored ones."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, TensorProto, numpy_helper

from mixquant_onnx.model.dtypes import numpy_type
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.model.weights import LocatedWeight, located_in
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor


def replace_weight(located: LocatedWeight, q: QuantizedTensor) -> None:
    """Put what `q` stands for where `located` is stored."""
    put(located, q.dequantize(numpy_type(q.dtype)))


def editable_copy(
    model: ModelProto, weights: Mapping[str, LocatedWeight]
) -> tuple[ModelProto, dict[str, LocatedWeight]]:
    """A copy of `model` and where its `weights` are there, to be replaced."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy, located_in(copy, weights)


def with_weights(
    model: ModelProto, weights: Mapping[str, LocatedWeight], quantized: Mapping[str, QuantizedTensor]
) -> ModelProto:
    """A copy of a float model with some weights as they are quantized.

    Args:
        model: The float model.
        weights: Its weights by name.
        quantized: Those to replace.

    Returns:
        The copy.
    """
    copy, places = editable_copy(model, weights)
    for name, q in quantized.items():
        replace_weight(places[name], q)
    return copy


def put(located: LocatedWeight, value: FloatArray) -> None:
    """Put `value` (of the site's shape and type) where `located` is stored."""
    put_back(located, numpy_helper.from_array(value, located.source.tensor.name))


def put_back(located: LocatedWeight, tensor: TensorProto) -> None:
    """Put a tensor where `located` is stored; it may be in a file."""
    located.source.tensor.CopyFrom(tensor)
    if located.source.floats is not None:
        located.source.floats.floats[:] = values_of(tensor).tolist()
