"""Quantization of one weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.moments import Moments, SecondMoments
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.integers import encode, levels
from mixquant_onnx.numerics.quadratic import quadratic_error
from mixquant_onnx.numerics.rows import (
    effective_grid,
    expand_params,
    from_rows,
    params_from_rows,
    params_to_rows,
    to_rows,
)
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.quantization.methods import Method, method
from mixquant_onnx.quantization.ranges import lattice, weighted_mse
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.bias_corrected import compensate
from mixquant_onnx.quantization.rounding.objective import Problem, Rounding
from mixquant_onnx.quantization.rounding.shrinkage import with_best_shrinkage
from mixquant_onnx.quantization.slices import quantized_by_slices, squared_error

_OUTPUTS = Granularity(per="channel")

Inputs = Moments | SecondMoments | None
"""Statistics of a weight's inputs, if known."""


def quantize_weight(
    site: WeightTensor,
    weight: NDArray[np.generic],
    scheme: Scheme,
    inputs: Inputs = None,
    limit: float = float("inf"),
    quick: bool = False,
) -> QuantizedTensor:
    """Quantize one weight by the method of its scheme.

    Args:
        site: Shape, axes and type of the weight.
        weight: Its values.
        scheme: Method, bits, granularity and symmetry.
        inputs: Second moments: a calibrated method minimises the output error. Moments (or second moments of a
            data-free method): rounding is bias-corrected. None: rounding to nearest.
        limit: Largest QE (mean squared error of the weight) allowed for bias correction; above it, rounding to nearest.
        quick: Whether a calibrated method is replaced by gptq alone, to compare plans.

    Returns:
        Codes, scales and zero points.

    Raises:
        OptionError: The scheme's method is not known.
    """
    known = method(scheme.method)
    if isinstance(inputs, SecondMoments) and known.rounding is not None:
        return _calibrated(site, weight, scheme, inputs, gptq.solve if quick else known.rounding)
    nearest = _nearest(site, weight, scheme, known)
    if inputs is None:
        return nearest
    better = _bias_corrected(nearest, weight, inputs if isinstance(inputs, Moments) else inputs.moments)
    return better if quantization_error(better, weight) <= limit else nearest


def output_rows(layout: WeightAxes, weight: NDArray[np.generic]) -> NDArray[np.float32]:
    """A weight as rows, one for each output of its layer.

    Args:
        layout: Axes of the weight.
        weight: Its values.

    Returns:
        [N, M], float32.
    """
    return to_rows(np.ascontiguousarray(weight, dtype=np.float32), layout, _OUTPUTS)


def output_error(site: WeightTensor, weight: NDArray[np.generic], other: FloatArray, inputs: SecondMoments) -> float:
    """Mean squared error of the layer's output, relative to the output's mean square.

    Args:
        site: The weight's shape and axes.
        weight: Its float values.
        other: The values that replace them, of the same shape.
        inputs: Second moments of the layer's inputs.

    Returns:
        The noise-to-signal ratio; 0 where the output is all zero.
    """
    rows = output_rows(site.layout, weight)
    grouped = rows.reshape(inputs.groups, -1, rows.shape[1])
    difference = output_rows(site.layout, other) - rows
    matrix = inputs.shrunk()
    signal = quadratic_error(grouped, matrix)
    return quadratic_error(difference.reshape(grouped.shape), matrix) / signal if signal > 0 else 0.0


def quantization_error(q: QuantizedTensor, weight: NDArray[np.generic]) -> float:
    """QE: mean squared error of the dequantized weight.

    Args:
        q: The quantized weight.
        weight: Its float values.

    Returns:
        The error, computed in float64.
    """
    return squared_error(q, weight) / q.codes.size


def rows_in_grid(site: WeightTensor, weight: NDArray[np.generic], scheme: Scheme) -> NDArray[np.float32]:
    """A weight as rows that share a scale.

    Args:
        site: The weight's shape and axes.
        weight: Its values.
        scheme: Gives the granularity.

    Returns:
        [N, M], float32.
    """
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    return to_rows(np.ascontiguousarray(weight, dtype=np.float32), site.layout, grid)


def _nearest(site: WeightTensor, weight: NDArray[np.generic], scheme: Scheme, known: Method) -> QuantizedTensor:
    """Ranges of the method, codes rounded to nearest."""
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    sliced = quantized_by_slices(site, weight, grid, lambda part, values: _nearest(part, values, scheme, known))
    if sliced is not None:
        return sliced
    rows = rows_in_grid(site, weight, scheme)
    scale, zero = known.fit(rows, scheme.bits, scheme.symmetric)
    scale = _finite(scale, zero, scheme.bits, site.dtype)
    codes = encode(rows, scale, np.broadcast_to(zero, scale.shape), scheme.bits)
    return _tensor(site, scheme, from_rows(codes, site.shape, site.layout, grid), scale, zero)


def _tensor(site: WeightTensor, scheme: Scheme, codes: Codes, scale: FloatArray, zero: Codes) -> QuantizedTensor:
    """Codes of the weight's shape, with the `scale` and `zero` of its rows as they are stored."""
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    points = zero.reshape(1, 1, 1) if zero.size == 1 else params_from_rows(zero, site.shape, site.layout, grid)
    return QuantizedTensor(
        codes=codes,
        scale=params_from_rows(scale, site.shape, site.layout, grid),
        zero_point=points,
        scheme=scheme,
        layout=site.layout,
        dtype=site.dtype,
    )


def _calibrated(
    site: WeightTensor, weight: NDArray[np.generic], scheme: Scheme, inputs: SecondMoments, rounding: Rounding
) -> QuantizedTensor:
    """Ranges by weighted error on the least-squares target, then codes by the method's rounding function.

    Weights on a lattice keep its levels where their output error is no larger.
    """
    rows = grouped_rows(site, weight, inputs)
    target = inputs.target(rows)
    made = calibrated_ranges(site, scheme, target, inputs)
    steps, zeros = as_rows(made, made.scale), as_rows(made, made.zero_point)
    problem = Problem(
        target=target,
        scale=steps.reshape(*rows.shape[:2], -1),
        zero_point=zeros.reshape(*rows.shape[:2], -1),
        highest=levels(scheme.bits),
        matrix=inputs.shrunk(),
    )
    problem = with_best_shrinkage(problem, rows, inputs)
    best = rounding(problem)
    if lattice.fit(rows_in_grid(site, weight, scheme), scheme.bits, scheme.symmetric) is not None:
        nearest = _nearest(site, weight, scheme, method(scheme.method))
        plain = output_rows(site.layout, nearest.dequantize(np.dtype(np.float32))).reshape(rows.shape)
        if problem.loss(plain) <= problem.loss(best):
            return nearest
    return with_levels(made, best)


def grouped_rows(site: WeightTensor, weight: NDArray[np.generic], inputs: SecondMoments) -> NDArray[np.float32]:
    """A weight as rows by group of its layer.

    Args:
        site: The weight's shape and axes.
        weight: Its values.
        inputs: Gives the groups.

    Returns:
        [groups, n, K], float32.
    """
    return output_rows(site.layout, weight).reshape(inputs.groups, -1, inputs.width)


def with_levels(made: QuantizedTensor, levels_: NDArray[np.float32]) -> QuantizedTensor:
    """A tensor with the codes of given levels.

    Args:
        made: Scales and zero points.
        levels_: Dequantized values [groups, n, K].

    Returns:
        The tensor.
    """
    steps, zeros, top = as_rows(made, made.scale), as_rows(made, made.zero_point), levels(made.scheme.bits)
    codes = np.rint(levels_.reshape(-1, levels_.shape[2]) / steps)
    codes += zeros
    np.clip(codes, 0, top, out=codes)
    return replace(made, codes=from_rows(codes.astype(np.uint8), made.codes.shape, made.layout, _OUTPUTS))


def calibrated_ranges(
    site: WeightTensor, scheme: Scheme, target: NDArray[np.float32], inputs: SecondMoments, rounds: int | None = None
) -> QuantizedTensor:
    """Scales and zero points for a target, errors weighted by E[x^2].

    Args:
        site: The weight's shape and axes.
        scheme: Bits, granularity and symmetry.
        target: Weights [groups, n, K].
        inputs: Second moments of the layer's inputs.
        rounds: As `weighted_mse.fit`.

    Returns:
        A tensor whose codes are 0.
    """
    shape, layout = site.shape, site.layout
    grid = effective_grid(shape, layout, scheme.grid)

    def in_grid(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = outputs.reshape(-1, inputs.width)
        return flat if grid == _OUTPUTS else to_rows(from_rows(flat, shape, layout, _OUTPUTS), layout, grid)

    squares = np.broadcast_to(inputs.diagonal()[:, None, :], target.shape)
    scale, zero = weighted_mse.fit(in_grid(target), in_grid(squares), scheme.bits, scheme.symmetric, rounds)
    scale = _finite(scale, zero, scheme.bits, site.dtype)
    return _tensor(site, scheme, np.zeros(shape, np.uint8), scale, zero)


def as_rows(q: QuantizedTensor, params: FloatArray) -> NDArray[np.float32]:
    """Scales or zero points in rows that are outputs of the layer.

    Args:
        q: The tensor.
        params: Its scale or zero point.

    Returns:
        [N, 1] per channel, else expanded to each weight [N, M].
    """
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    if grid == _OUTPUTS:
        p, _, r, _ = q.layout.sizes(q.codes.shape)
        return params_to_rows(params, p * r)[:, None].astype(np.float32)
    expanded = expand_params(params, q.codes.shape, q.layout, grid).astype(np.float32)
    return to_rows(np.broadcast_to(expanded, q.codes.shape), q.layout, _OUTPUTS)


def _finite(scale: FloatArray, zero: Codes, bits: int, dtype: str) -> FloatArray:
    """`scale`, lowered where the weight is float16 and its largest level would be infinite."""
    if dtype != "float16":
        return scale
    offset = zero.astype(np.float32)
    furthest = np.maximum(offset, levels(bits) - offset)
    top = np.float64(np.finfo(np.float16).max)
    ceiling = np.asarray(top / furthest).astype(scale.dtype)
    below = np.nextafter(ceiling, scale.dtype.type(0))
    return np.asarray(np.minimum(scale, np.where(ceiling.astype(np.float64) * furthest > top, below, ceiling)))


def _bias_corrected(q: QuantizedTensor, weight: NDArray[np.generic], moments: Moments) -> QuantizedTensor:
    """`q` with a few codes changed by one step. Rows are outputs of the layer, for any granularity."""
    shape, layout = q.codes.shape, q.layout
    rows = output_rows(layout, weight)
    codes = compensate(
        rows,
        to_rows(q.codes, layout, _OUTPUTS),
        as_rows(q, q.scale),
        as_rows(q, q.zero_point),
        levels(q.scheme.bits),
        moments,
    )
    return replace(q, codes=from_rows(codes, shape, layout, _OUTPUTS))
