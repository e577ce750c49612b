"""Reaction of the network's outputs to each weight, times the layer's own error at every width."""

from __future__ import annotations

from mixquant_onnx.planning.sensitivity import layer_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.planning.sensitivity.reactions import NOISE, scaled
from mixquant_onnx.runtime.session import RuntimeFailure


def measure(measurement: Measurement) -> Costs:
    """Noise of the outputs, as a share, with one weight quantized.

    Measured at one width per weight (at two, where more effort is wanted), one run each; the cost of other candidates
    is proportional to their layer's own error. A weight that the samples do not reach gets the median reaction.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Noise-to-signal ratios; those of the layer's own output where the model does not run.
    """
    own = measurement.of(layer_output.measure)
    try:
        return scaled(measurement, own, NOISE)
    except RuntimeFailure:
        return own
