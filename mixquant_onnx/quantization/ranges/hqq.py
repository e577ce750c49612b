"""Half-quadratic quantization, data-free.

Minimises the l_p error of the weights, p = 0.7, which is less sensitive than the square to the few large errors of
clipped outliers. Residuals e become separate variables, and two closed forms alternate while their penalty beta grows:
e = sign(r) max(|r| - |r|^(p - 1) / beta, 0), r the rounding error, and the zero point as the mean of q - (w - e) / s
over the codes q.

Here a zero point is an integer, and at a given scale all integers that clip nothing round alike. Therefore the scale is
optimised too, by least squares of w - e on q - zero point; the zero point is real in the first iterations, then
rounded. When symmetric the zero point is fixed and only the scale is optimised. Errors are in steps, so that beta fits
every scale.

Source:
    Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels, storable_scale
from mixquant_onnx.numerics.rounding_error import CHUNK
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.ranges.exact_errors import Errors, Rows, stored_scale
from mixquant_onnx.quantization.ranges.nearest import code_bounds

NORM = 0.7
"""The published p."""

_BETA = 3.0
"""Initial beta: only errors beyond beta^(-1 / (2 - p)) = 0.43 steps become residuals, hardly more than clipped weights.
"""

_GROWTH = 1.01
"""Factor of beta per iteration, as published."""

_TURNS = 20
"""Iterations, as published."""

_SETTLING = 5
"""Iterations of the scale alone after the zero point is rounded."""


def norm_errors(rows: Rows, scale: FloatArray, zero: Codes, bits: int) -> Errors:
    """Sum of |error|^p of each row when rounded to nearest.

    Args:
        rows: Weights [N, M].
        scale: [N].
        zero: Zero points [N], or [1] for all rows.
        bits: Width of the codes, 2 to 8.

    Returns:
        [N].
    """
    step = scale.astype(np.float32)[:, None]
    low, high = (bound[:, None] for bound in code_bounds(zero, bits, len(rows)))
    error = rows - np.clip(np.rint(rows / step), low, high) * step
    return np.asarray(np.sum(np.abs(error) ** np.float32(NORM), axis=1, dtype=np.float64))


def shrink(error: Rows, beta: float) -> Rows:
    """The residuals: approximate minimum over e of |e|^p + beta / 2 (e - error)^2.

    Args:
        error: Rounding errors, in steps.
        beta: Penalty.

    Returns:
        Residuals of the same shape.
    """
    size = np.abs(error)
    # Smaller residuals shrink to 0; the power would be infinite at 0.
    least = np.float32(beta ** (-1 / (2 - NORM)))
    size -= np.maximum(size, least) ** np.float32(NORM - 1) / np.float32(beta)
    return np.asarray(np.copysign(np.maximum(size, 0), error))


def _solve(steps: Rows, zero: Rows, top: int, symmetric: bool) -> tuple[Rows, Rows]:
    """Optimise the scale and zero point of weights that are given in steps.

    Args:
        steps: Weights [n, M] in steps of the initial scale.
        zero: Initial zero points [n].
        top: The largest code.
        symmetric: Whether zero points are fixed.

    Returns:
        Factor for the scale [n], 1 where all codes are the zero point; and zero points [n].
    """
    factor, zero = np.ones((len(steps), 1), np.float32), zero[:, None].copy()
    for turn in range(_TURNS + _SETTLING):
        weights = steps / factor
        codes = np.clip(np.rint(weights + zero), 0, top)
        target = weights - shrink(weights - (codes - zero), _BETA * _GROWTH**turn)
        if not symmetric and turn < _TURNS:
            zero = np.mean(codes - target, axis=1, keepdims=True)
            zero = np.clip(np.rint(zero) if turn == _TURNS - 1 else zero, 0, top)
        codes -= zero
        square = np.einsum("ij,ij->i", codes, codes)
        along = np.einsum("ij,ij->i", codes, target)
        change = np.divide(along, square, out=np.ones_like(along), where=square > 0)
        factor = factor * np.clip(change, 0.5, 2)[:, None]
    return factor[:, 0], zero[:, 0]


def fit(rows: Rows, bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """Ranges by half-quadratic optimisation; those of min-max on rows where their l_p error is no larger.

    Args:
        rows: Weights [N, M].
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        Scale as stored [N] and zero point [N], or [1] when symmetric.
    """
    start, zero = minmax.fit(rows, bits, symmetric)
    half = start.dtype == np.float16
    scale = start.astype(np.float32)
    zero = np.broadcast_to(zero, len(rows)).copy()
    at_once = max(1, CHUNK // rows.shape[1])
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        values, unit = rows[part], scale[part]
        factor, moved = _solve(values / unit[:, None], zero[part].astype(np.float32), levels(bits), symmetric)
        found, offset = stored_scale(unit * factor, half), moved.astype(np.uint8)
        better = norm_errors(values, found, offset, bits) < norm_errors(values, unit, zero[part], bits)
        scale[part] = np.where(better, found, unit)
        zero[part] = np.where(better, offset, zero[part])
    return storable_scale(scale), zero[:1] if symmetric else zero
