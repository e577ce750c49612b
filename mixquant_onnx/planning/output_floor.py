"""A least SQNR of the network's outputs: where they fall below it, weights get more bits.

The rule bounds the error of each tensor and does not consider the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.errors import counted
from mixquant_onnx.numerics.noise import decibels
from mixquant_onnx.planning.allocators.knapsack import Choice, smallest_within_cost
from mixquant_onnx.planning.plan_outputs import noise_with
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.sensitivity import weight_error
from mixquant_onnx.planning.sensitivity.measurement import Measurement
from mixquant_onnx.quantization.network import Layers
from mixquant_onnx.runtime.session import RuntimeFailure, Session

FLOOR_DB = 20.0
"""Least SQNR of the outputs in dB, on held-out samples (docs/research/data_free.md)."""

_TURNS = 2
"""Most times that weights are quantized again with more bits; bounds time."""

_MARGIN = 0.8
"""Share of the allowed error that the costs may predict, as they are only approximately proportional to it."""

Requantize = Callable[[Planned], Layers]
"""Quantizes the weights of a plan."""


def hold_floor(planned: Planned, layers: Layers, judged: Data, requantize: Requantize) -> tuple[Planned, Layers]:
    """Raise bits until the outputs reach FLOOR_DB.

    Args:
        planned: The plan.
        layers: Its quantized weights.
        judged: Held-out samples.
        requantize: Quantizes the weights of another plan.

    Returns:
        A plan and its weights, with a note on what changed. Unchanged where the model does not run, or all weights have
        the most bits.
    """
    try:
        reference = run_all(Session(planned.loaded.float_model), judged)
    except RuntimeFailure:
        return planned, layers
    first = noise = noise_with(planned, layers.quantized, judged, reference)
    allowed, before = 10 ** (-FLOOR_DB / 10), planned.plan.sites
    for _ in range(_TURNS):
        if not np.isfinite(noise) or noise <= allowed:
            break
        wider = _wider(planned, _MARGIN * allowed / noise)
        if wider.plan.sites == planned.plan.sites:
            break
        planned, layers = wider, requantize(wider)
        planned = with_schemes(planned, layers)
        noise = noise_with(planned, layers.quantized, judged, reference)
    raised = sum(scheme != before[name] for name, scheme in planned.plan.sites.items())
    if not (np.isfinite([first, noise]).all() and raised):
        return planned, layers
    note = (
        f"outputs had {decibels(first):.1f} dB on {judged.rows} {judged.name}, below {FLOOR_DB:g}: "
        f"{counted(raised, 'weight')} got more bits, which gives {decibels(noise):.1f} dB"
    )
    return planned, replace(layers, notes=(*layers.notes, note))


def with_schemes(planned: Planned, layers: Layers) -> Planned:
    """A plan with the schemes that its weights were quantized by; some take more bits than planned.

    Args:
        planned: The plan.
        layers: Its quantized weights.

    Returns:
        The plan.
    """
    return planned.with_sites({name: q.scheme for name, q in layers.quantized.items()})


def _wider(planned: Planned, share: float) -> Planned:
    """The fewest bytes, with no weight at fewer bits, at which the summed cost is `share` of the current one."""
    table = {name: planned.table[name] for name in planned.plan.sites}
    priced = weight_error.measure(Measurement(table, planned.loaded.model, planned.sites))
    choices = {}
    total = 0.0
    for name, scheme in planned.plan.sites.items():
        cells = [c for c in table[name].candidates if c.scheme.bits >= scheme.bits and c.scheme.grid == scheme.grid]
        choices[name] = [Choice(scheme=c.scheme, cost=priced[name][c.scheme], nbytes=c.nbytes) for c in cells]
        total += priced[name][scheme]
    chosen = smallest_within_cost(choices, share * total)
    return planned.with_sites({name: choice.scheme for name, choice in chosen.items() if choice.scheme is not None})
