"""Types of arrays, and the bit widths that weights may have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
"""float16, float32, float64, or bfloat16 of ml_dtypes."""

Codes = NDArray[np.uint8]
"""Integers 0..2^bits - 1, one a byte; packed only in the file (export/encodings)."""

ALL_BITS = (2, 3, 4, 5, 6, 7, 8)
"""Bit widths of weights: those that `export/encodings` can store."""

FLOAT_BITS = 32
"""Bits of a float32 weight, the baseline of compression ratios."""
