"""The inputs that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

Dims = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A model input. Unknown sizes are names, or "" where the model gives none. `sequence`: a list of such tensors.

    Strings have the dtype object.
    """

    name: str
    dtype: np.dtype[Any]
    dims: Dims | None
    sequence: bool = False


def model_inputs(model: ModelProto) -> list[Input]:
    """The inputs that the caller must give (initializers are not among them, nor what is optional)."""
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
        dtype = np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type))
        found.append(Input(name=value.name, dtype=dtype, dims=dims, sequence=sequence))
    return found
