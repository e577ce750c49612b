"""NumPy types of the ONNX float types."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper


def numpy_type(name: str) -> np.dtype[np.generic]:
    """The NumPy type of a name, bfloat16 (of ml_dtypes) included."""
    if name == "bfloat16":
        return np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return np.dtype(name)
