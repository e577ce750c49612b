"""Runs of the network with one weight quantized, and how far its outputs then are from the float model's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping

import numpy as np

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.output_distance import Divergence
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.runtime.session import RuntimeFailure, Session

NOISE, DIVERGENCE = "reaction", "reaction in nats"
"""Distances: the noise-to-signal ratio, and where a model gives the next token, the Kullback-Leibler divergence."""

_LEAST_REACTION = 0.01
"""Least reaction of a weight, as a share of the median one: few samples may not show an effect."""

Distance = Callable[[Outputs], float]


def scaled(measurement: Measurement, own: Costs, kind: str) -> Costs:
    """Costs of each layer's own output, times the network's reaction to it.

    Args:
        measurement: The model, the candidates and samples.
        own: Errors of each layer's own output.
        kind: The distance, NOISE or DIVERGENCE.

    Returns:
        Costs of every candidate.

    Raises:
        RuntimeFailure: The model does not run.
    """
    reactions = _reactions(measurement, own)[kind]
    typical = float(np.median([r for r in reactions.values() if r > 0] or [1.0]))
    floor = _LEAST_REACTION * typical
    factors = {name: max(r, floor) if r > 0 else typical for name, r in reactions.items()}
    return {name: {scheme: error * factors[name] for scheme, error in own[name].items()} for name in own}


def _reactions(measurement: Measurement, own: Costs) -> dict[str, dict[str, float]]:
    """Distance of the outputs for one unit of each layer's own error; what is kept already is not run again."""
    kept, names = measurement.work.table, list(measurement.table)
    kinds = (NOISE,) if measurement.tokens is None else (NOISE, DIVERGENCE)
    keys = {name: " ".join([name, *map(str, measurement.anchors(name))]) for name in names}
    known = {kind: {name: kept.get_json(kind, key) for name, key in keys.items()} for kind in kinds}
    if all(None not in found.values() for found in known.values()):
        return known
    runs = _Runs(measurement)
    for name in runs.order:
        if any(found[name] is None for found in known.values()):
            far = {s: runs.distances(name, s) for s in measurement.anchors(name) if own[name][s] > 0}
            for kind in kinds:
                ratios = [one[kind] / own[name][s] for s, one in far.items()]
                known[kind][name] = _geometric_mean([r for r in ratios if math.isfinite(r) and r > 0])
                kept.put_json(kind, keys[name], known[kind][name])
        measurement.progress("measure layers", sum(v is not None for v in known[NOISE].values()), len(names))
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
        whole, feeds = Session(model), self._calibration.feeds
        reference = [whole.run(feed) for feed in feeds]
        self._distances: dict[str, Distance] = {NOISE: lambda outputs: relative_noise(reference, outputs)}
        if measurement.tokens is not None:
            divergence = Divergence(found=measurement.tokens, feeds=feeds, reference=reference)
            self._distances[DIVERGENCE] = divergence.mean
        self.order = self._calibration.order

    def distances(self, name: str, scheme: Scheme) -> Mapping[str, float]:
        """Each distance of the outputs from the float model's; weights are asked for in `order`."""
        replaced = self._replaced[name]
        self._calibration.advance([name], self._stream)
        replace_weight(replaced, self._measurement.solved.tensor(name, scheme))
        try:
            outputs = self._run(name)
            return {kind: distance(outputs) for kind, distance in self._distances.items()}
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
