"""One weight and its scheme -> codes, scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.moments import Moments, SecondMoments
from mixquant_onnx.errors import OptionError
from mixquant_onnx.model.weights import WeightSite
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.granularity import (
    Grid,
    Layout,
    effective_grid,
    expand_params,
    from_rows,
    params_from_rows,
    to_rows,
)
from mixquant_onnx.numerics.integers import encode, levels
from mixquant_onnx.numerics.quadratic import quadratic_error
from mixquant_onnx.numerics.scheme import Quantized, Scheme, dequantized
from mixquant_onnx.quantization.ranges import fit
from mixquant_onnx.quantization.ranges import weighted_mse as weighted
from mixquant_onnx.quantization.rounding import adaround, gptq
from mixquant_onnx.quantization.rounding import coordinate_descent as descent
from mixquant_onnx.quantization.rounding.bias_corrected import compensate
from mixquant_onnx.quantization.rounding.objective import Problem
from mixquant_onnx.quantization.rounding.shrinkage import trusted

_OUTPUTS = Grid(per="channel")


SOLVERS: dict[str, Callable[[Problem], NDArray[np.float32]]] = {
    "gptq": gptq.solve,
    "adaround": adaround.solve,
    "brecq": adaround.solve,
}
"""Methods that need the second moments of the inputs; without them their ranges are those of `mse`.

brecq is that of layers outside of blocks: reconstructed alone, which is AdaRound.
"""

RECONSTRUCTED = "brecq"
"""The method that needs the extra `reconstruct`."""

_LEARNED = frozenset({"adaround", "brecq"})


def need_torch() -> None:
    """Raises OptionError where the extra is not installed, or does not work."""
    if find_spec("torch") is None:
        raise OptionError(f"--method {RECONSTRUCTED} needs torch: pip install 'mixquant-onnx[reconstruct]'")
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(
            f"--method {RECONSTRUCTED}: torch does not import ({reason}); pip install 'mixquant-onnx[reconstruct]' anew"
        ) from error


def quick(scheme: Scheme) -> Scheme:
    """What stands for `scheme` where many plans are compared, or something better follows.

    gptq for what is learned: as good as adaround (docs/experiment-ablation.md), in less time.
    """
    return replace(scheme, method="gptq") if scheme.method in _LEARNED else scheme


Inputs = Moments | SecondMoments | None
"""What is known of a weight's inputs."""


def quantize_weight(
    site: WeightSite,
    weight: NDArray[np.generic],
    scheme: Scheme,
    inputs: Inputs = None,
    limit: float = float("inf"),
) -> Quantized:
    """Codes of `weight` (shape of the site) under `scheme`.

    With second moments and a calibrated method: those with the least error of the output. With moments: rounded
    so that the output keeps its mean, as long as the QE stays at most `limit`. Else rounded to nearest.
    """
    nearest = _nearest(site, weight, scheme)
    if isinstance(inputs, SecondMoments) and scheme.method in SOLVERS:
        return _solved(site, weight, scheme, inputs, nearest)
    if inputs is None:
        return nearest
    better = _compensated(nearest, weight, inputs if isinstance(inputs, Moments) else inputs.moments)
    return better if quantization_error(better, weight) <= limit else nearest


def output_rows(layout: Layout, weight: NDArray[np.generic]) -> NDArray[np.float32]:
    """`weight` with a row [N, M] for each output of its layer."""
    return to_rows(np.ascontiguousarray(weight, dtype=np.float32), layout, _OUTPUTS)


def output_error(site: WeightSite, weight: NDArray[np.generic], other: FloatArray, inputs: SecondMoments) -> float:
    """Mean squared error of the layer's output for `other` in place of `weight`, as a share of its mean square."""
    rows = output_rows(site.layout, weight)
    grouped = rows.reshape(inputs.groups, -1, rows.shape[1])
    difference = output_rows(site.layout, other) - rows
    matrix = inputs.shrunk()
    signal = quadratic_error(grouped, matrix)
    return quadratic_error(difference.reshape(grouped.shape), matrix) / signal if signal > 0 else 0.0


def quantization_error(q: Quantized, weight: NDArray[np.generic]) -> float:
    """QE: mean squared error between `weight` and its dequantized codes, float64."""
    difference = np.asarray(weight, np.float32) - dequantized(q, np.dtype(np.float32))
    return float(np.mean(np.square(difference, dtype=np.float64)))


def _nearest(site: WeightSite, weight: NDArray[np.generic], scheme: Scheme) -> Quantized:
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    rows = to_rows(np.ascontiguousarray(weight, dtype=np.float32), site.layout, grid)
    scale, zero = fit(scheme.method, rows, scheme.bits, scheme.symmetric)
    if site.dtype == "float16":
        scale = _within_float16(scale, zero, scheme.bits)
    codes = encode(rows, scale, np.broadcast_to(zero, scale.shape), scheme.bits)
    shape, layout = site.shape, site.layout
    return Quantized(
        codes=from_rows(codes, shape, layout, grid),
        scale=params_from_rows(scale, shape, layout, grid),
        zero_point=zero.reshape(1, 1, 1) if zero.size == 1 else params_from_rows(zero, shape, layout, grid),
        scheme=scheme,
        layout=layout,
        dtype=site.dtype,
    )


def _solved(
    site: WeightSite, weight: NDArray[np.generic], scheme: Scheme, inputs: SecondMoments, nearest: Quantized
) -> Quantized:
    """Ranges by weighted error on the least-squares target, then codes by the method's solver and descent.

    `nearest` where that has no more of the loss: weights on a grid of their own, say.
    """
    shape, layout = site.shape, site.layout
    grid = effective_grid(shape, layout, scheme.grid)
    values = output_rows(layout, weight)
    grouped = (inputs.groups, len(values) // inputs.groups, inputs.width)
    rows = values.reshape(grouped)
    target = inputs.target(rows)
    squares = np.broadcast_to(inputs.diagonal()[:, None, :], grouped)

    def in_grid(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return to_rows(from_rows(rows.reshape(values.shape), shape, layout, _OUTPUTS), layout, grid)

    scale, zero = weighted.fit(in_grid(target), in_grid(squares), scheme.bits, scheme.symmetric)
    if site.dtype == "float16":
        scale = _within_float16(scale, zero, scheme.bits)
    made = Quantized(
        codes=np.zeros(shape, np.uint8),
        scale=params_from_rows(scale, shape, layout, grid),
        zero_point=zero.reshape(1, 1, 1) if zero.size == 1 else params_from_rows(zero, shape, layout, grid),
        scheme=scheme,
        layout=layout,
        dtype=site.dtype,
    )
    steps, zeros = _as_rows(made, made.scale), _as_rows(made, made.zero_point)
    problem = Problem(
        target=target,
        scale=steps.reshape(grouped),
        zero_point=zeros.reshape(grouped),
        highest=levels(scheme.bits),
        matrix=inputs.shrunk(),
    )
    problem = trusted(problem, rows, inputs)
    best = descent.solve(problem, SOLVERS[scheme.method](problem))
    plain = output_rows(layout, dequantized(nearest, np.dtype(np.float32))).reshape(grouped)
    if problem.loss(plain) <= problem.loss(best):
        return nearest
    best = best.reshape(values.shape)
    codes = np.clip(np.rint(best / steps) + zeros, 0, levels(scheme.bits)).astype(np.uint8)
    return replace(made, codes=from_rows(codes, shape, layout, _OUTPUTS))


def _as_rows(q: Quantized, params: FloatArray) -> NDArray[np.float32]:
    """`params` of q for each weight, in rows that are outputs of the layer, whatever the granularity."""
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    expanded = expand_params(params, q.codes.shape, q.layout, grid).astype(np.float32)
    return to_rows(np.broadcast_to(expanded, q.codes.shape), q.layout, _OUTPUTS)


def _within_float16(scale: FloatArray, zero: Codes, bits: int) -> FloatArray:
    """`scale`, lowered where the largest level would be infinite as float16."""
    offset = zero.astype(np.float32)
    furthest = np.maximum(offset, levels(bits) - offset)
    top = np.float64(np.finfo(np.float16).max)
    ceiling = np.asarray(top / furthest).astype(scale.dtype)
    below = np.nextafter(ceiling, scale.dtype.type(0))
    return np.asarray(np.minimum(scale, np.where(ceiling.astype(np.float64) * furthest > top, below, ceiling)))


def _compensated(q: Quantized, weight: NDArray[np.generic], moments: Moments) -> Quantized:
    """Rows here are outputs of the layer, whatever the granularity of the scales."""
    shape, layout = q.codes.shape, q.layout
    rows = output_rows(layout, weight)
    codes = compensate(
        rows,
        to_rows(q.codes, layout, _OUTPUTS),
        _as_rows(q, q.scale),
        _as_rows(q, q.zero_point),
        levels(q.scheme.bits),
        moments,
    )
    return replace(q, codes=from_rows(codes, shape, layout, _OUTPUTS))
