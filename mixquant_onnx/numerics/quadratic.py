"""The error of a layer's output as a quadratic form of the error of its weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


def quadratic_error(difference: Rows, matrix: Rows) -> float:
    """tr(E M E^T): the mean squared error of the outputs, summed over rows and groups.

    Args:
        difference: E, the error of the weights, [groups, n, K].
        matrix: M = E[x x^T], the second moments of the inputs, [groups, K, K].

    Returns:
        The error, in squared units of the output.
    """
    return float(np.vdot(np.matmul(difference, matrix), difference))
