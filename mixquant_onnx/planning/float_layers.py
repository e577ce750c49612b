"""Layers that stay in float, because rounding their activations costs more accuracy than their time is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.work import multiplications
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.planning.guard_goal import GuardGoal
from mixquant_onnx.planning.rounding import Rounding
from mixquant_onnx.planning.rounding_candidates import noise_of
from mixquant_onnx.quantization.activations.placement import Placement, layers_at
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.quality import quality_of

ENOUGH_DECISIONS = 200
"""Fewest equal or unequal decisions that tell their share."""

_MOST_ROWS = 8
_MULTIPLICATIONS = 1e11
"""Most samples on which each value is rounded alone, and multiplications of all these runs: bounds the time to some 10
seconds."""

_CONSIDERED = 8
"""Values of most noise among which the next is sought. Affects time alone, as a rule: noise falls off quickly."""

_LEAST_GAIN = 0.05
"""Share of the noise that a layer in float must remove."""


def layers_in_float(rounding: Rounding, goal: GuardGoal, data: Data) -> set[str]:
    """Choose layers that stay in float, by the noise of each value alone and the time that is given up.

    Noises of single values add up to that of all within 2 dB (docs/research/activations.md), so that the search
    runs no model.

    Args:
        rounding: The model.
        goal: When outputs are good enough.
        data: Samples on which it is judged.

    Returns:
        Names of weights; empty where rounding all is good enough, or leaving layers in float does not help.

    Raises:
        DataError: The model does not run on `data`.
    """
    if goal.layers is not None:
        return set(goal.layers) & set(rounding.sites)
    rows = thinned(batched(data), 4 * _MOST_ROWS)
    session = Session(rounding.model)
    wanted = run_all(session, rows)
    all_rounded = run_all(Session(rounding.rounded(rounding.placement.values), "as_written"), rows)
    noise = relative_noise(wanted, all_rounded)
    if noise <= goal.noise or _agree(rounding.model, goal, wanted, all_rounded, session.outputs):
        return set()
    shapes = {name: np.shape(value) for name, value in _first(rows, 1).feeds[0].items()}
    each = multiplications(rounding.model, shapes) * len(rounding.placement.values)
    few = _first(rows, int(np.clip(_MULTIPLICATIONS / max(each, 1), 1, _MOST_ROWS)))
    some = run_all(session, few)
    constants = {tensor.name for tensor in rounding.model.graph.initializer}
    # Values on the grid of others, and constants, are rounded without an error.
    noisy = [v for v in rounding.placement.values if v.grid == v.name and v.name not in constants]
    alone = {v.name: noise_of(rounding.rounded((v,)), some, few) for v in noisy}
    saved = {name: max(nanoseconds, 1.0) for name, nanoseconds in rounding.saved().items()}
    chosen = _search(rounding, goal, alone, saved)
    if not chosen:
        return chosen
    left = noise_of(rounding.rounded(rounding.without(chosen).values), wanted, rows)
    return chosen if left < (1 - _LEAST_GAIN) * noise else set()


def _first(data: Data, count: int) -> Data:
    """About `count` samples: single ones where batches can be split."""
    single = batched(data, 1)
    return replace(single, feeds=thinned(single, count).feeds[:count], labels=None)


def _agree(model: ModelProto, goal: GuardGoal, wanted: Outputs, outputs: Outputs, names: list[str]) -> bool:
    if goal.agreement is None:
        return False
    share = quality_of("as_written", wanted, outputs, names, class_axes(model, wanted, names)).agreement
    return share is not None and share.count >= ENOUGH_DECISIONS and share.value >= goal.agreement


def _search(rounding: Rounding, goal: GuardGoal, alone: Mapping[str, float], saved: Mapping[str, float]) -> set[str]:
    """Leave layers in float one value after another, the one of most noise for the time it gives up first."""
    chosen, placement, most = set[str](), rounding.placement, goal.most_time * sum(saved.values())
    while True:
        noise = _total(placement, alone)
        if noise <= goal.noise:
            return chosen
        best, best_rate = None, 0.0
        noisy = sorted(placement.values, key=lambda v: -alone.get(v.name, 0.0))[:_CONSIDERED]
        for value in noisy:
            wider = chosen | layers_at(rounding.model, placement, {value.name})
            gain = noise - _total(rounding.without(wider), alone)
            spent = sum(saved.get(name, 0.0) for name in wider)
            added = spent - sum(saved.get(name, 0.0) for name in chosen)
            if gain < _LEAST_GAIN * noise or spent > most or added <= 0:
                continue
            if gain / added > best_rate:
                best, best_rate = wider, gain / added
        if best is None:
            return chosen
        chosen, placement = best, rounding.without(best)


def _total(placement: Placement, alone: Mapping[str, float]) -> float:
    return sum(alone.get(value.name, 0.0) for value in placement.values)
