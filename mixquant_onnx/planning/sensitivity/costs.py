"""What a budget is spent on: the cost of each candidate of each site, in one additive unit for all sites.

energy: QE / mean(w^2) of each output x sqrt(weights), data-free. hessian: the error of the layer's own output, from
the second moments of its inputs. output: the same, times how strongly the network's output was measured to react to it.
block: output, less what later layers of the same block make up for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data, thinned
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.rounding_error import row_errors
from mixquant_onnx.numerics.scheme import Scheme, dequantized
from mixquant_onnx.planning.allocators.knapsack import relative_error
from mixquant_onnx.planning.error_table import ErrorTable, SiteErrors
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.ranges.nearest import code_bounds
from mixquant_onnx.quantization.weight import output_error, output_rows, quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session

Costs = Mapping[str, Mapping[Scheme, float]]

ANCHORS = (3, 5)
"""Widths at which the network's reaction to a site is measured; other candidates follow their layer's own error."""

_MOST_ROWS = 64
"""Held-back rows that are run, twice for every site."""

_SPREAD_BITS = 3

_DEAD = 1e-6
"""Power of an output, as a share of the mean one, below which it does not count."""

_MOST_SHARE = 0.9
"""Of a layer's error that others are believed to make up for, or to add."""

_LEAST_REACTION = 0.01
"""Share of the median site's reaction that every site is taken to have, whatever the data did not show."""


def energy(table: ErrorTable, sites: Mapping[str, LocatedSite]) -> Costs:
    """Data-free: the error of each output as a share of its own weights' power, times the root of all weights.

    An output's scale says little of its weight (a Relu, a norm or the next layer undoes it; Nagel et al. 2019, arXiv
    1906.04721, section 4.1). The root keeps small layers from taking all bits, and any from collapsing at 2 or 3.
    """
    costs: dict[str, dict[Scheme, float]] = {}
    for name, errors in table.items():
        factor = _spread(sites[name]) * math.sqrt(errors.elements)
        costs[name] = {c.scheme: relative_error(errors, c.qe) * factor for c in errors.cells}
    return costs


def _spread(located: LocatedSite) -> float:
    """The mean of each output's own relative error over that of all together, for min-max at _SPREAD_BITS."""
    rows = output_rows(located.site.layout, weight_values(located))
    scale, zero = minmax.fit(rows, _SPREAD_BITS, False)
    error = row_errors(rows, scale, *code_bounds(zero, _SPREAD_BITS, len(rows)))
    with np.errstate(over="ignore"):
        power = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    live = np.isfinite(power) & (power > _DEAD * power.mean())
    if not error[live].sum() > 0:
        return 1.0
    return float((error[live] / power[live]).mean() * power[live].sum() / error[live].sum())


def even(table: ErrorTable) -> Costs:
    """As if every weight of the model weighed the same at the same width: a budget gives all layers the same bits."""
    return {
        name: {c.scheme: errors.elements * 4.0**-c.scheme.bits for c in errors.cells} for name, errors in table.items()
    }


def hessian(table: ErrorTable, sites: Mapping[str, LocatedSite], moments: Mapping[str, SecondMoments]) -> Costs:
    """Each layer's output error as a share of its output, after rounding to nearest; QE / mean(w^2) without moments."""
    return {name: _layer_errors(table[name], sites[name], moments.get(name)) for name in table}


def _layer_errors(errors: SiteErrors, located: LocatedSite, moments: SecondMoments | None) -> dict[Scheme, float]:
    if moments is None:
        return {cell.scheme: relative_error(errors, cell.qe) for cell in errors.cells}
    weight = np.asarray(weight_values(located), np.float32)
    rounded = {
        cell.scheme: dequantized(quantize_weight(located.site, weight, cell.scheme), weight.dtype)
        for cell in errors.cells
    }
    return {scheme: output_error(located.site, weight, other, moments) for scheme, other in rounded.items()}


def output(
    table: ErrorTable, model: ModelProto, sites: Mapping[str, LocatedSite], fit: Data, held: Data,
    progress: Progress = quiet,
) -> tuple[Costs, Costs]:  # fmt: skip
    """(hessian, output): the latter is the noise of the network's outputs on `held`, as a share, with one site
    quantized on `fit`.

    Measured at two widths a site, one run each; other candidates in proportion to their `hessian` error. A site
    that `held` does not reach counts as the median one. `hessian` twice where the model does not run.
    """
    calibration = Calibration(model, sites, fit)
    held = few(held)
    seconds = calibration.second_moments(list(table))
    own = hessian(table, sites, seconds)
    current, replaced = editable_copy(model)
    try:
        reference = run_all(Session(model), held)
        reactions = {}
        for position, (name, errors) in enumerate(table.items()):
            found = [
                _reaction(
                    current, sites[name], replaced[name], scheme, seconds.get(name), reference, held, own[name][scheme]
                )
                for scheme in anchors(errors)
            ]
            reactions[name] = _geometric_mean([r for r in found if r > 0])
            progress("measure", position + 1, len(table))
    except RuntimeFailure:
        return own, own
    typical = float(np.median([r for r in reactions.values() if r > 0] or [1.0]))
    floor = _LEAST_REACTION * typical
    scaled = {name: max(r, floor) if r > 0 else typical for name, r in reactions.items()}
    return own, {name: {scheme: error * scaled[name] for scheme, error in own[name].items()} for name in own}


def block(output: Costs, made_up_for: Mapping[tuple[str, str], float]) -> Costs:
    """`output` without what later layers of the same block make up for, by the shares of pairs (first, later)."""
    left = dict.fromkeys(output, 1.0)
    for (first, _), share in made_up_for.items():
        left[first] *= max(1 - share, 0.0)
    kept = {name: min(max(factor, 1 - _MOST_SHARE), 1 + _MOST_SHARE) for name, factor in left.items()}
    return {name: {scheme: cost * kept[name] for scheme, cost in own.items()} for name, own in output.items()}


def balanced(first: Costs, second: Costs) -> Costs:
    """The geometric mean of two costs of the same candidates.

    Measured alone, a layer looks dearer than it is where later layers, quantized on its changed outputs, make up for
    it; the data-free cost does not know the network at all. Between them none of the tried models fared badly.
    """
    return {name: {s: math.sqrt(cost * second[name][s]) for s, cost in own.items()} for name, own in first.items()}


def few(held: Data) -> Data:
    """As many of the held-back rows as are run for every site."""
    return thinned(held, _MOST_ROWS)


def anchors(errors: SiteErrors) -> list[Scheme]:
    """The candidates nearest to ANCHORS, of the first granularity."""
    grid = errors.cells[0].scheme.grid
    schemes = [cell.scheme for cell in errors.cells if cell.scheme.grid == grid]
    return list(dict.fromkeys(min(schemes, key=lambda s: abs(s.bits - bits)) for bits in ANCHORS))


def _reaction(
    current: ModelProto, located: LocatedSite, replaced: LocatedSite, scheme: Scheme, inputs: SecondMoments | None,
    reference: list[list[FloatArray]], held: Data, own: float,
) -> float:  # fmt: skip
    """Noise at the outputs for each unit of the site's own error; 0 where there is neither."""
    if own <= 0:
        return 0.0
    weight = weight_values(located)
    replace_weight(replaced, quantize_weight(located.site, weight, surrogate(scheme), inputs))
    noise = relative_noise(reference, run_all(Session(current), held))
    put(replaced, weight)
    return noise / own if math.isfinite(noise) else 0.0


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0
