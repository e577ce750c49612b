"""Optimism of an SQNR measured on the samples that the weights were fitted to, by cross-fitting."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.split import halves
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.plan_outputs import noise_with, surrogates_of
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.runtime.session import RuntimeFailure, Session


def optimism_db(
    planned: Planned, split: DataSplit, quantized: Mapping[str, QuantizedTensor], compensated: bool
) -> float | None:
    """SQNR on the samples of fitting, minus the mean of what a fit to one half gives on the other.

    As a half calibrates worse than the whole, the estimate tends to be too large. The choice of the plan is not
    repeated.

    Args:
        planned: The plan.
        split: The samples.
        quantized: The weights as fitted to all samples.
        compensated: Whether rounding is bias-corrected.

    Returns:
        The optimism in dB, at least 0; None where the samples cannot be split, or an SQNR is not finite.
    """
    parts = halves(split.fitting)
    if parts is None:
        return None
    try:
        float_session = Session(planned.loaded.float_model)
        own = noise_with(planned, quantized, split.evaluation, run_all(float_session, split.evaluation))
        others = [
            noise_with(planned, surrogates_of(planned, fit, compensated).quantized, held, run_all(float_session, held))
            for fit, held in (parts, parts[::-1])
        ]
    except RuntimeFailure:
        return None
    shares = np.array([own, *others])
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        return 0.0 if own == 0 and not any(others) else None
    return max(0.0, float(10 * (np.mean(np.log10(shares[1:])) - np.log10(own))))
