"""Plans quantized by cheap methods, and the outputs of the model with their weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.model.substitute import with_weights
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.bounds import quantize_plan
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.network import Layers
from mixquant_onnx.runtime.session import RuntimeFailure, Session


def surrogates_of(
    planned: Planned, fit: Data, compensated: bool, sample_weights: Mapping[str, float] | None = None,
    quick: bool = False,
) -> Layers:  # fmt: skip
    """The weights of a plan, quantized in the order of the graph by surrogates of their methods.

    Args:
        planned: The plan.
        fit: Samples for calibration.
        compensated: Whether rounding is bias-corrected.
        sample_weights: As `NetworkTask`.
        quick: As `NetworkTask`.

    Returns:
        The quantized weights.
    """
    sites = {name: surrogate(scheme) for name, scheme in planned.plan.sites.items()}
    return quantize_plan(planned.with_sites(sites), fit, compensated, sample_weights=sample_weights, quick=quick)


def outputs_with(planned: Planned, quantized: Mapping[str, QuantizedTensor], held: Data) -> Outputs | None:
    """Outputs with given quantized weights.

    Args:
        planned: Gives the model.
        quantized: The weights by name.
        held: Samples for evaluation.

    Returns:
        Outputs for each batch; None where the model does not run.
    """
    model = with_weights(planned.loaded.model, planned.sites, quantized)
    try:
        return run_all(Session(model), held)
    except RuntimeFailure:
        return None


def noise_with(planned: Planned, quantized: Mapping[str, QuantizedTensor], held: Data, reference: Outputs) -> float:
    """Noise-to-signal ratio of the outputs with given quantized weights.

    Args:
        planned: Gives the model.
        quantized: The weights by name.
        held: Samples for evaluation.
        reference: Outputs of the float model on `held`.

    Returns:
        The ratio; infinite where the model does not run.
    """
    outputs = outputs_with(planned, quantized, held)
    noise = float("inf") if outputs is None else relative_noise(reference, outputs)
    return noise if np.isfinite(noise) else float("inf")
