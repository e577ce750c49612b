"""Equal sensitivity of all weights at the same width: a budget gives all layers the same bits."""

from __future__ import annotations

from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement


def measure(measurement: Measurement) -> Costs:
    """Squared error of uniform rounding for every candidate: elements x 4^-bits.

    Args:
        measurement: The candidates.

    Returns:
        Costs of every candidate.
    """
    return {
        name: {c.scheme: errors.elements * 4.0**-c.scheme.bits for c in errors.candidates}
        for name, errors in measurement.table.items()
    }
