"""Reaction of the network's outputs to each weight, times the layer's own error at every width."""

from __future__ import annotations

import math

import numpy as np

from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.planning.sensitivity import layer_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement, anchors
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
    """Noise at the outputs for one unit of each layer's own error; what is kept already is not run again."""
    kept, names = measurement.work.table, list(measurement.table)
    known = {name: kept.get_json("reaction", name) for name in names}
    if None not in known.values():
        return known
    current, replaced = editable_copy(measurement.model, measurement.weights)
    held = measurement.held
    reference = run_all(Session(measurement.model), held)
    for position, name in enumerate(names):
        if known[name] is None:
            found = []
            for scheme in (s for s in anchors(measurement.table[name]) if own[name][s] > 0):
                replace_weight(replaced[name], measurement.solved.tensor(name, scheme))
                noise = relative_noise(reference, run_all(Session(current), held))
                found.append(noise / own[name][scheme] if math.isfinite(noise) else 0.0)
            put(replaced[name], weight_values(measurement.weights[name]))
            known[name] = _geometric_mean([r for r in found if r > 0])
            kept.put_json("reaction", name, known[name])
        measurement.progress("measure", position + 1, len(names))
    return known


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0
