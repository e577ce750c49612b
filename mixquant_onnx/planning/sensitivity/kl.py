"""Divergence of the next token's distribution with one weight quantized, by forward passes alone."""

from __future__ import annotations

from mixquant_onnx.errors import OptionError
from mixquant_onnx.planning.sensitivity import layer_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.planning.sensitivity.reactions import DIVERGENCE, scaled
from mixquant_onnx.runtime.session import RuntimeFailure


def measure(measurement: Measurement) -> Costs:
    """Kullback-Leibler divergence between the float model's next token and that with one weight quantized.

    Measured as `network_output` does, in the same runs. Near the float model the divergence is a quadratic form of the
    change of the logits, and so in proportion to the layer's own error, too.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Nats a token; errors of the layer's own output where the model does not run.

    Raises:
        OptionError: The model does not give the distribution of a next token.
    """
    own = measurement.of(layer_output.measure)
    if measurement.tokens is None:
        raise OptionError(
            "--cost kl needs a model that reads token ids and gives logits [..., vocabulary]; use network-output"
        )
    try:
        return scaled(measurement, own, DIVERGENCE)
    except RuntimeFailure:
        return own
