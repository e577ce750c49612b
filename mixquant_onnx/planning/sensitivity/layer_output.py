"""The error of each layer's own output, from the second moments of its inputs."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorRow
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.quantization.weight import output_error, quantize_weight


def measure(measurement: Measurement) -> Costs:
    """Relative error of each layer's output after rounding to nearest.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Noise-to-signal ratios; QE / mean(w^2) where the inputs of a weight cannot be read.
    """
    moments = measurement.second_moments
    return {
        name: _layer_errors(errors, measurement.weights[name], moments.get(name))
        for name, errors in measurement.table.items()
    }


def _layer_errors(errors: ErrorRow, located: LocatedWeight, moments: SecondMoments | None) -> dict[Scheme, float]:
    if moments is None:
        return {cell.scheme: errors.relative(cell.qe) for cell in errors.candidates}
    weight = np.asarray(weight_values(located), np.float32)
    rounded = {
        cell.scheme: quantize_weight(located.site, weight, cell.scheme).dequantize(weight.dtype)
        for cell in errors.candidates
    }
    return {scheme: output_error(located.site, weight, other, moments) for scheme, other in rounded.items()}
