"""Layers that stay in float, because rounding their activations costs more accuracy than their time is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.export.activations import round_values
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.planning.rounding_candidates import noise_of
from mixquant_onnx.quantization.activations.observers import Observed
from mixquant_onnx.quantization.activations.placement import Placement, RoundedValue, layers_at, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.quality import quality_of

GOOD_NOISE = 10**-2.4
"""Noise-to-signal ratio of the outputs (24 dB), with float weights, that is good enough: models that near lose at most
0.5 points (docs/activations.md)."""

GOOD_AGREEMENT = 0.995
ENOUGH_DECISIONS = 200
"""Share of equal decisions that is good enough too, and the fewest decisions that tell."""

_MOST_ROWS = 8
_MULTIPLICATIONS = 3e11
"""Most samples on which each value is rounded alone, and multiplications of all these runs: bounds the time to some 20
seconds."""

_CONSIDERED = 8
"""Values of most noise among which the next is sought. Affects time alone, as a rule: noise falls off quickly."""

_LEAST_GAIN = 0.05
"""Share of the noise that a layer in float must remove."""

_MOST_WORK = 0.3
"""Most multiplications, as a share of all of the integer layers, that go back to float."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rounding:
    """A model and where it is to be rounded.

    Attributes:
        model: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        grids: The grids of these values.
        unusable: Values that have no grid.
    """

    model: ModelProto
    sites: Mapping[str, LocatedWeight]
    placement: Placement
    grids: Mapping[str, ActivationGrid]
    unusable: set[str]

    def without(self, layers: set[str]) -> Placement:
        """Where it is rounded if more layers stay in float.

        Args:
            layers: Names of weights.

        Returns:
            The placement.
        """
        return place(self.model, self.sites, layers, unusable=self.unusable)

    def rounded(self, values: tuple[RoundedValue, ...]) -> ModelProto:
        """A copy that rounds some values.

        Args:
            values: The values.

        Returns:
            The copy.
        """
        copy = ModelProto()
        copy.CopyFrom(self.model)
        round_values(copy, values, self.grids)
        return copy


def layers_in_float(rounding: Rounding, observed: Mapping[str, Observed], data: Data) -> set[str]:
    """Choose layers that stay in float, by the noise of each value alone and the multiplications around it.

    Noises of single values add up to that of all within 2 dB (docs/activations.md), so that the search runs no model.

    Args:
        rounding: The model.
        observed: Statistics of its values.
        data: Samples on which it is judged.

    Returns:
        Names of weights; empty where rounding all is good enough, or leaving layers in float does not help.

    Raises:
        DataError: The model does not run on `data`.
    """
    rows = thinned(batched(data), 4 * _MOST_ROWS)
    session = Session(rounding.model)
    wanted = run_all(session, rows)
    all_rounded = run_all(Session(rounding.rounded(rounding.placement.values), "as_written"), rows)
    noise = relative_noise(wanted, all_rounded)
    if noise <= GOOD_NOISE or _agree(rounding.model, wanted, all_rounded, session.outputs):
        return set()
    work = _work(rounding, observed)
    seen = max(one.samples for one in observed.values())
    each = sum(work.values()) / seen * len(rounding.placement.values)
    few = _first(rows, int(np.clip(_MULTIPLICATIONS / max(each, 1), 1, _MOST_ROWS)))
    some = run_all(session, few)
    alone = {v.name: noise_of(rounding.rounded((v,)), some, few) for v in rounding.placement.values}
    chosen = _search(rounding, alone, work)
    if not chosen:
        return chosen
    left = noise_of(rounding.rounded(rounding.without(chosen).values), wanted, rows)
    return chosen if left < (1 - _LEAST_GAIN) * noise else set()


def _first(data: Data, count: int) -> Data:
    """About `count` samples: single ones where batches can be split."""
    single = batched(data, 1)
    return replace(single, feeds=thinned(single, count).feeds[:count], labels=None)


def _agree(model: ModelProto, wanted: Outputs, outputs: Outputs, names: list[str]) -> bool:
    share = quality_of("as_written", wanted, outputs, names, class_axes(model, wanted, names)).agreement
    return share is not None and share.count >= ENOUGH_DECISIONS and share.value >= GOOD_AGREEMENT


def _work(rounding: Rounding, observed: Mapping[str, Observed]) -> dict[str, float]:
    """Multiplications of each integer layer on the observed rows, by the name of its weight."""
    found: dict[str, float] = {}
    for node in rounding.model.graph.node:
        name = rounding.placement.layers.get(node.output[0]) if node.output else None
        if name is None:
            continue
        site = rounding.sites[name].site
        p, _, q, _ = site.layout.sizes(site.shape)
        outputs = p * q
        result = next((v for v in (node.output[0], *_behind(rounding.model, node.output[0])) if v in observed), None)
        if result is not None:
            work = observed[result].histogram.total * site.elements / outputs
        else:
            work = observed[node.input[0]].histogram.total * outputs if node.input[0] in observed else site.elements
        found[name] = found.get(name, 0.0) + work
    return found


def _behind(model: ModelProto, name: str) -> list[str]:
    return [output for node in model.graph.node if name in node.input for output in node.output]


def _search(rounding: Rounding, alone: Mapping[str, float], work: Mapping[str, float]) -> set[str]:
    """Leave layers in float one value after another, the one of most noise for its multiplications first."""
    chosen, placement, most = set[str](), rounding.placement, _MOST_WORK * sum(work.values())
    while True:
        noise = _total(placement, alone)
        if noise <= GOOD_NOISE:
            return chosen
        best, best_rate = None, 0.0
        noisy = sorted(placement.values, key=lambda v: -alone.get(v.name, 0.0))[:_CONSIDERED]
        for value in noisy:
            wider = chosen | layers_at(rounding.model, placement, {value.name})
            gain = noise - _total(rounding.without(wider), alone)
            spent = sum(work.get(name, 0.0) for name in wider)
            added = spent - sum(work.get(name, 0.0) for name in chosen)
            if gain < _LEAST_GAIN * noise or spent > most or added <= 0:
                continue
            if gain / added > best_rate:
                best, best_rate = wider, gain / added
        if best is None:
            return chosen
        chosen, placement = best, rounding.without(best)


def _total(placement: Placement, alone: Mapping[str, float]) -> float:
    return sum(alone.get(value.name, 0.0) for value in placement.values)
