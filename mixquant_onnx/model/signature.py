"""The inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from mixquant_onnx.errors import ModelError

Dims = tuple[int | str, ...]
"""Sizes of dimensions; a name, or "", where they are free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A model input.

    Attributes:
        name: Its name.
        dtype: Its NumPy type; object for strings.
        dims: Its sizes; free ones are names, or "" where the model gives none. None if the rank is not known.
        sequence: Whether it is a list of such tensors.
    """

    name: str
    dtype: np.dtype[Any]
    dims: Dims | None
    sequence: bool = False


def model_inputs(model: ModelProto) -> list[Input]:
    """The inputs that the caller must give.

    Args:
        model: The model.

    Returns:
        Inputs in order, without initializers and optional ones.

    Raises:
        ModelError: An input is of a type that this onnx does not know.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        kind = value.type
        sequence = kind.HasField("sequence_type") and kind.sequence_type.elem_type.HasField("tensor_type")
        if value.name in stored or not (sequence or kind.HasField("tensor_type")):
            continue
        tensor = kind.sequence_type.elem_type.tensor_type if sequence else kind.tensor_type
        dims: Dims | None = None
        if tensor.HasField("shape"):
            dims = tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim)
        try:
            dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
        except KeyError as error:
            raise ModelError(f"input '{value.name}' is of a type that this onnx does not know") from error
        found.append(Input(name=value.name, dtype=dtype, dims=dims, sequence=sequence))
    return found
