"""NumPy types of the float types of ONNX."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper


def numpy_type(name: str) -> np.dtype[np.generic]:
    if name == "bfloat16":
        return np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    return np.dtype(name)
