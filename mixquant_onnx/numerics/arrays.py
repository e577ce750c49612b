"""Types of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
"""float16, float32, float64, or bfloat16 of ml_dtypes."""

Codes = NDArray[np.uint8]
"""Integers 0..2^bits - 1, one a byte; packed only in the file (export/encodings)."""
