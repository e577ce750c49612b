"""The error of each layer's own output, from the second moments of its inputs."""

from __future__ import annotations

from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement


def measure(measurement: Measurement) -> Costs:
    """Relative error of each layer's output, with the codes of the table.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Noise-to-signal ratios; QE / mean(w^2) where the inputs of a weight cannot be read.
    """
    solved = measurement.solved
    costs = {}
    for name, errors in measurement.table.items():
        found = {cell.scheme: solved.error(name, cell.scheme) for cell in errors.candidates}
        relative = {cell.scheme: errors.relative(cell.qe) for cell in errors.candidates}
        costs[name] = {scheme: relative[scheme] if own is None else own for scheme, own in found.items()}
    return costs
