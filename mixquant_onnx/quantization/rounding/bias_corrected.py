"""Rounding that preserves the mean of a layer's output, from means and variances of its inputs.

Rounding to nearest minimises the error of the weights; the error of the output is sum_j e_j x_j, whose mean square for
uncorrelated inputs is (sum_j e_j mean_j)^2 + sum_j e_j^2 var_j. The first term, a shift of the output, is the most
harmful in networks with positive activations. Here a few weights of each row are rounded the other way, those with the
least added variance per removed shift, until the sum of both terms is minimal.

Source:
    Nagel et al. 2019, arXiv 1906.04721, correct the shift in the biases; Guo et al. 2022, arXiv 2202.07471, by
    rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.moments import Moments
from mixquant_onnx.numerics.arrays import Codes

_AT_ONCE = 1 << 20
"""Weights processed at once: about 4 MiB per array; does not change the result."""


def compensate(
    rows: NDArray[np.float32],
    codes: Codes,
    scale: NDArray[np.float32],
    zero_point: NDArray[np.float32],
    highest: int,
    moments: Moments,
) -> Codes:
    """Change a few codes by one step, so that the outputs keep their means.

    Args:
        rows: The float weights [N, M]; each row is one output of the layer.
        codes: Their codes [N, M], rounded to nearest.
        scale: Broadcasts against `rows`.
        zero_point: Broadcasts against `rows`.
        highest: The highest code, 2^bits - 1.
        moments: Mean and variance of the inputs.

    Returns:
        Codes [N, M].
    """
    count, width = rows.shape
    at_once = max(1, _AT_ONCE // max(width, 1))
    result = codes.copy()
    for start in range(0, count, at_once):
        part = slice(start, min(start + at_once, count))
        step = np.broadcast_to(scale, rows.shape)[part]
        zero = np.broadcast_to(zero_point, rows.shape)[part]
        mean, variance = moments.part(part, count)
        result[part] = _compensate(rows[part], codes[part], step, zero, highest, mean, variance)
    return result


def _compensate(
    rows: NDArray[np.float32],
    codes: Codes,
    step: NDArray[np.float32],
    zero: NDArray[np.float32],
    highest: int,
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
) -> Codes:
    level = codes.astype(np.float32) - zero
    error = rows - level * step
    shift = np.einsum("ij,ij->i", error, np.broadcast_to(mean, error.shape))[:, None]
    toward = np.sign(error)
    effect = step * mean * toward
    moved = codes.astype(np.int16) + toward.astype(np.int16)
    allowed = (effect * shift > 0) & (moved >= 0) & (moved <= highest)
    # Rounding j the other way reduces the shift by |effect| and increases the variance by this.
    price = variance * step * (step - 2 * np.abs(error))
    gain = np.abs(effect)
    ratio = np.where(allowed, price / np.maximum(gain, np.float32(1e-30)), np.float32(np.inf))
    count = min(rows.shape[1], 16 + 8 * int(np.sqrt(rows.shape[1])))
    nearest = np.argpartition(ratio, count - 1, axis=1)[:, :count] if count < rows.shape[1] else None
    picked = np.take_along_axis(ratio, nearest, 1) if nearest is not None else ratio
    order = np.argsort(picked, axis=1, kind="stable")
    order = np.take_along_axis(nearest, order, 1) if nearest is not None else order
    usable = np.take_along_axis(allowed, order, 1)
    taken = np.cumsum(np.where(usable, np.take_along_axis(gain, order, 1), 0), axis=1, dtype=np.float64)
    paid = np.cumsum(np.where(usable, np.take_along_axis(price, order, 1), 0), axis=1, dtype=np.float64)
    objective = (np.abs(shift) - taken) ** 2 + paid
    objective = np.concatenate([np.abs(shift).astype(np.float64) ** 2, objective], axis=1)
    changes = objective.argmin(axis=1)[:, None]
    flip = usable & (np.arange(order.shape[1]) < changes)
    result = codes.copy()
    now = np.take_along_axis(result, order, 1).astype(np.int16)
    now += np.where(flip, np.take_along_axis(toward, order, 1), 0).astype(np.int16)
    np.put_along_axis(result, order, now.astype(np.uint8), 1)
    return result
