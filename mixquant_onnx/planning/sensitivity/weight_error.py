"""Data-free sensitivity: QE / mean(w^2) of each output, times sqrt(weights)."""

from __future__ import annotations

import math

import numpy as np

from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.rounding_error import row_errors
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.ranges.nearest import code_bounds
from mixquant_onnx.quantization.weight import output_rows

_SPREAD_BITS = 3
"""Width at which the outputs of a layer are compared: low, so that differences are large."""

_DEAD = 1e-6
"""Power of an output, relative to the mean, below which it is ignored."""


def measure(measurement: Measurement) -> Costs:
    """The error of each output relative to the power of its own weights, times sqrt(number of weights).

    The scale of an output does not indicate its importance (a Relu, a norm or the next layer undoes it). The square
    root keeps small layers from taking all bits, and any layer from falling to 2 or 3 bits.

    Args:
        measurement: The model and the candidates.

    Returns:
        Costs of every candidate.

    Source:
        Scale equivariance: Nagel et al. 2019, arXiv 1906.04721, section 4.1.
    """
    costs: dict[str, dict[Scheme, float]] = {}
    for name, errors in measurement.table.items():
        factor = _spread(measurement.weights[name]) * math.sqrt(errors.elements)
        costs[name] = {c.scheme: errors.relative(c.qe) * factor for c in errors.candidates}
    return costs


def _spread(located: LocatedWeight) -> float:
    """Mean relative error of single outputs over the relative error of all together, for min-max at _SPREAD_BITS."""
    rows = output_rows(located.site.layout, weight_values(located))
    scale, zero = minmax.fit(rows, _SPREAD_BITS, False)
    error = row_errors(rows, scale, *code_bounds(zero, _SPREAD_BITS, len(rows)))
    with np.errstate(over="ignore"):
        power = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    live = np.isfinite(power) & (power > _DEAD * power.mean())
    if not error[live].sum() > 0:
        return 1.0
    return float((error[live] / power[live]).mean() * power[live].sum() / error[live].sum())
