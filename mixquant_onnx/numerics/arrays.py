"""Types of arrays, and the widths that weights may have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]


Codes = NDArray[np.uint8]


ALL_BITS = (2, 3, 4, 5, 6, 7, 8)


FLOAT_BITS = 32
