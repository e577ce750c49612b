"""Reaction of the network's outputs to each weight, times the layer's own error at every width."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.sensitivity import layer_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement, anchors
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_LEAST_REACTION = 0.01
"""Least reaction of a weight, as a share of the median one: few samples may not show an effect."""


def measure(measurement: Measurement) -> Costs:
    """Noise of the outputs, as a share, with one weight quantized.

    Measured at two widths per weight, one run each; the cost of other candidates is proportional to their layer's own
    error. A weight that the samples do not reach gets the median reaction.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Noise-to-signal ratios; those of the layer's own output where the model does not run.
    """
    own = measurement.of(layer_output.measure)
    try:
        reactions = _reactions(measurement, own)
    except RuntimeFailure:
        return own
    typical = float(np.median([r for r in reactions.values() if r > 0] or [1.0]))
    floor = _LEAST_REACTION * typical
    scaled = {name: max(r, floor) if r > 0 else typical for name, r in reactions.items()}
    return {name: {scheme: error * scaled[name] for scheme, error in own[name].items()} for name in own}


def _reactions(measurement: Measurement, own: Costs) -> dict[str, float]:
    current, replaced = editable_copy(measurement.model, measurement.weights)
    held, seconds = measurement.held, measurement.second_moments
    reference = run_all(Session(measurement.model), held)
    reactions = {}
    for position, (name, errors) in enumerate(measurement.table.items()):
        located, inputs = measurement.weights[name], seconds.get(name)
        found = [
            _reaction(current, located, replaced[name], scheme, inputs, reference, held, own[name][scheme])
            for scheme in anchors(errors)
        ]
        reactions[name] = _geometric_mean([r for r in found if r > 0])
        measurement.progress("measure", position + 1, len(measurement.table))
    return reactions


def _reaction(
    current: ModelProto, located: LocatedWeight, replaced: LocatedWeight, scheme: Scheme, inputs: SecondMoments | None,
    reference: list[list[FloatArray]], held: Data, own: float,
) -> float:  # fmt: skip
    """Noise at the outputs per unit of the layer's own error; 0 where there is none."""
    if own <= 0:
        return 0.0
    weight = weight_values(located)
    replace_weight(replaced, quantize_weight(located.site, weight, surrogate(scheme), inputs))
    noise = relative_noise(reference, run_all(Session(current), held))
    put(replaced, weight)
    return noise / own if math.isfinite(noise) else 0.0


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0
