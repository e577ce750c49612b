"""Data-free: QE / mean(w^2) of each output x sqrt(weights)."""

from __future__ import annotations

import math

import numpy as np

from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.rounding_error import row_errors
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.knapsack import relative_error
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.ranges.nearest import code_bounds
from mixquant_onnx.quantization.weight import output_rows

_SPREAD_BITS = 3
"""Width at which outputs of a layer are compared: low, so that their errors stand out."""

_DEAD = 1e-6
"""Power of an output, as a share of the mean one, below which it does not count."""


def measure(measurement: Measurement) -> Costs:
    """The error of each output as a share of its own weights' power, times the root of all weights.

    An output's scale says little of its weight (a Relu, a norm or the next layer undoes it; Nagel et al. 2019, arXiv
    1906.04721, section 4.1). The root keeps small layers from taking all bits, and any from collapsing at 2 or 3.
    """
    costs: dict[str, dict[Scheme, float]] = {}
    for name, errors in measurement.table.items():
        factor = _spread(measurement.weights[name]) * math.sqrt(errors.elements)
        costs[name] = {c.scheme: relative_error(errors, c.qe) * factor for c in errors.cells}
    return costs


def _spread(located: LocatedSite) -> float:
    """The mean of each output's own relative error over that of all together, for min-max at _SPREAD_BITS."""
    rows = output_rows(located.site.layout, weight_values(located))
    scale, zero = minmax.fit(rows, _SPREAD_BITS, False)
    error = row_errors(rows, scale, *code_bounds(zero, _SPREAD_BITS, len(rows)))
    with np.errstate(over="ignore"):
        power = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    live = np.isfinite(power) & (power > _DEAD * power.mean())
    if not error[live].sum() > 0:
        return 1.0
    return float((error[live] / power[live]).mean() * power[live].sum() / error[live].sum())
