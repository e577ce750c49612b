"""Network output, corrected for compensation: what later layers of the same block remove of an error, or add to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.model.blocks import Block, find_blocks
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.planning.sensitivity import network_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement, anchors
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session

Shares = Mapping[tuple[str, str], float]
"""By (first weight, later weight): the share of the first one's error at the network's outputs that the second
compensates; negative where both are worse together than each alone.
"""

_MOST_SHARE = 0.9
"""Clamp of the pairwise correction: at most this share of a weight's cost is removed or added."""


def measure(measurement: Measurement) -> Costs:
    """Network-output costs with pairwise corrections.

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Costs of every candidate.

    Source:
        BRECQ, Li et al. 2021, arXiv 2102.05426, section 3.4, where effects inside a block are looked up.
    """
    return corrected(measurement.of(network_output.measure), compensation(measurement))


def corrected(output: Costs, shares: Shares) -> Costs:
    """Costs reduced by what later weights compensate.

    Args:
        output: Network-output costs.
        shares: Compensation of pairs.

    Returns:
        Costs, each changed by at most the share `_MOST_SHARE`.
    """
    left = dict.fromkeys(output, 1.0)
    for (first, _), share in shares.items():
        left[first] *= max(1 - share, 0.0)
    kept = {name: min(max(factor, 1 - _MOST_SHARE), 1 + _MOST_SHARE) for name, factor in left.items()}
    return {name: {scheme: cost * kept[name] for scheme, cost in own.items()} for name, own in output.items()}


def compensation(measurement: Measurement) -> Shares:
    """Compensation of each pair of weights in a block.

    The first is quantized at the lower anchor width, the second at the higher one, fitted to inputs that the first has
    changed. Where the second's own error is small, the share hardly depends on the width of the first
    (docs/research/experiment-pairs.md).

    Args:
        measurement: The model, the candidates and samples.

    Returns:
        Shares of pairs in the order of the graph; empty where the model does not run.
    """
    blocks = find_blocks(measurement.model, measurement.weights, measurement.table)
    several = [block for block in blocks if len(block.sites) > 1]
    if not several:
        return {}
    found: dict[tuple[str, str], float] = {}
    try:
        pairs = _Pairs(measurement)
        for position, block in enumerate(several):
            found.update(pairs.of(block))
            measurement.progress("measure pairs", position + 1, len(several))
    except RuntimeFailure:
        return {}
    return found


class _Pairs:
    def __init__(self, measurement: Measurement) -> None:
        model, self._table, self._sites = measurement.model, measurement.table, measurement.weights
        measured = {name: self._sites[name] for name in self._table}
        self._calibration = Calibration(model, measured, measurement.fit)
        self._current, self._replaced = editable_copy(model, measured)
        self._own, self._changed = self._calibration.float_stream(), self._calibration.stream(self._current)
        self._held = measurement.held
        self._reference = run_all(Session(model), self._held)

    def of(self, block: Block) -> dict[tuple[str, str], float]:
        members = [name for name in self._calibration.order if name in block.sites]
        for stream in (self._own, self._changed):
            self._calibration.advance(members[:1], stream)
        coarse = {name: self._solved(name, 0) for name in members[:-1]}
        before = {name: self._noise({name: q}) for name, q in coarse.items()}
        alone = {name: self._noise({name: self._solved(name, -1)}) for name in members[1:]}
        found = {}
        for a, b in combinations(members, 2):
            replace_weight(self._replaced[a], coarse[a])
            both = self._noise({a: coarse[a], b: self._solved(b, -1)})
            found[a, b] = _share(before[a], alone[b], both)
        return found

    def _solved(self, name: str, anchor: int) -> QuantizedTensor:
        """A weight at one of its anchor widths, fitted to the current inputs."""
        inputs = self._calibration.collect([name], self._own.fork(), self._changed.fork()).get(name)
        located, scheme = self._sites[name], surrogate(anchors(self._table[name])[anchor])
        return quantize_weight(located.site, weight_values(located), scheme, inputs)

    def _noise(self, quantized: Mapping[str, QuantizedTensor]) -> float:
        """Noise at the outputs with some weights `quantized`; they are restored afterwards."""
        for name, q in quantized.items():
            replace_weight(self._replaced[name], q)
        noise = relative_noise(self._reference, run_all(Session(self._current), self._held))
        for name in quantized:
            put(self._replaced[name], weight_values(self._sites[name]))
        return noise


def _share(first: float, second: float, both: float) -> float:
    """The share that is compensated; 0 where there is no error."""
    return (first + second - both) / first if first > 0 and math.isfinite(first + second + both) else 0.0
