"""Network output, without what later layers of the same block make up for (compensation)."""

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
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.sensitivity import network_output
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement, anchors
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session

Shares = Mapping[tuple[str, str], float]
"""Of the first of two weights: the share of its error at the network's outputs that the second compensates, below 0
where both are worse together than each alone."""

_MOST_SHARE = 0.9
"""Clamp of the pairwise correction: at most this share of a weight's cost is removed or added."""


def measure(measurement: Measurement) -> Costs:
    """A table of pairs, as layers have one of their own.

    Source:
        BRECQ, Li et al. 2021, arXiv 2102.05426, section 3.4, where effects inside a block are looked up.
    """
    return corrected(network_output.measure(measurement), compensation(measurement))


def corrected(output: Costs, shares: Shares) -> Costs:
    """`output` without the `shares` of pairs (first, later)."""
    left = dict.fromkeys(output, 1.0)
    for (first, _), share in shares.items():
        left[first] *= max(1 - share, 0.0)
    kept = {name: min(max(factor, 1 - _MOST_SHARE), 1 + _MOST_SHARE) for name, factor in left.items()}
    return {name: {scheme: cost * kept[name] for scheme, cost in own.items()} for name, own in output.items()}


def compensation(measurement: Measurement) -> Shares:
    """For each two weights of a block, in the order of the graph.

    The first is quantized at the lower anchor width, the second at the higher one on inputs as the first left them,
    which it is fitted to. Where the second's own error hides little, the share hardly depends on the width of the
    first (docs/experiment-pairs.md). Empty where the model does not run.
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

    def _solved(self, name: str, anchor: int) -> Quantized:
        """At one of its anchor widths, on inputs as they now are."""
        inputs = self._calibration.collect([name], self._own.fork(), self._changed.fork()).get(name)
        located, scheme = self._sites[name], surrogate(anchors(self._table[name])[anchor])
        return quantize_weight(located.site, weight_values(located), scheme, inputs)

    def _noise(self, quantized: Mapping[str, Quantized]) -> float:
        """At the outputs, with some weights `quantized`, which are put back."""
        for name, q in quantized.items():
            replace_weight(self._replaced[name], q)
        noise = relative_noise(self._reference, run_all(Session(self._current), self._held))
        for name in quantized:
            put(self._replaced[name], weight_values(self._sites[name]))
        return noise


def _share(first: float, second: float, both: float) -> float:
    """0 where there is nothing to compensate."""
    return (first + second - both) / first if first > 0 and math.isfinite(first + second + both) else 0.0
