"""Reaction of the network's outputs to each weight, times the layer's own error at every width."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.sensitivity import layer_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_LEAST_REACTION = 0.01
"""Least reaction of a weight, as a share of the median one: few samples may not show an effect."""


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
    keys = {name: " ".join([name, *map(str, measurement.anchors(name))]) for name in names}
    known = {name: kept.get_json("reaction", key) for name, key in keys.items()}
    if None not in known.values():
        return known
    runs = _Runs(measurement)
    for name in runs.order:
        if known[name] is None:
            noises = {s: runs.noise(name, s) for s in measurement.anchors(name) if own[name][s] > 0}
            found = [noise / own[name][s] for s, noise in noises.items() if math.isfinite(noise) and noise > 0]
            known[name] = _geometric_mean(found)
            kept.put_json("reaction", keys[name], known[name])
        measurement.progress("measure layers", sum(value is not None for value in known.values()), len(names))
    return known


class _Runs:
    """Runs of the network with one weight quantized; only what comes after the weight is run."""

    def __init__(self, measurement: Measurement) -> None:
        model, self._measurement = measurement.model, measurement
        measured = {name: measurement.weights[name] for name in measurement.table}
        self._calibration = Calibration(model, measured, measurement.held)
        self._current, self._replaced = editable_copy(model, measured)
        self._outputs = [output.name for output in model.graph.output]
        self._stream = self._calibration.stream(self._current, outputs=self._outputs)
        whole = Session(model)
        self._reference = [whole.run(feed) for feed in self._calibration.feeds]
        self.order = self._calibration.order

    def noise(self, name: str, scheme: Scheme) -> float:
        """Noise-to-signal ratio of the outputs; weights are asked for in `order`."""
        replaced = self._replaced[name]
        self._calibration.advance([name], self._stream)
        replace_weight(replaced, self._measurement.solved.tensor(name, scheme))
        try:
            return relative_noise(self._reference, self._run(name))
        finally:
            put(replaced, weight_values(self._measurement.weights[name]))

    def _run(self, name: str) -> Outputs:
        if name in self._calibration.features and name not in self._calibration.read_earlier:
            with contextlib.suppress(RuntimeFailure):
                return self._stream.outputs(self._outputs)
        whole = Session(self._current)
        return [whole.run(feed, self._outputs) for feed in self._calibration.feeds]


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0
