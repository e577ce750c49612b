"""The ways to round the activations of a model, and which of them costs least."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from onnx import ModelProto

from mixquant_onnx.config.activations import ActivationOptions, RangeMethod
from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.data.dataset import Data, DataSplit, batched, rows_of, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.work import product_rows
from mixquant_onnx.errors import DataError
from mixquant_onnx.export.activations import round_dynamically, round_values
from mixquant_onnx.export.equalize import equalized
from mixquant_onnx.model.weights import LocatedWeight, find
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.planning.select_weights import select
from mixquant_onnx.quantization.activations.equalization import STRENGTHS, Equalizable, all_factors, equalizable
from mixquant_onnx.quantization.activations.observers import Observed, observe
from mixquant_onnx.quantization.activations.placement import PRODUCTS, Placement, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid, activation_grid
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_MOST_JUDGED = 32
"""Most samples on which ways to round are compared: bounds the time."""

_LEAST_GAIN = 0.1
"""Share of the noise that equalized channels must save: they take a product with a constant at every run."""

_COMPARED: tuple[RangeMethod, ...] = ("minmax", "percentile", "mse")
"""Ways that `auto` chooses from: entropy was best on none of six models (docs/research/activations.md)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoundingCandidate:
    """A float model, where it is to be rounded, and what was seen of its values.

    Attributes:
        model: The model; its channels may be equalized.
        placement: Where it is rounded.
        calibration: Statistics of the values on the rows for calibration.
        selection: The same on the rows for selection.
        balance: Strength of the equalization; 0 for none.
    """

    model: ModelProto
    placement: Placement
    calibration: Mapping[str, Observed]
    selection: Mapping[str, Observed]
    balance: float

    def observed(self) -> dict[str, Observed]:
        """Statistics on the rows for calibration and for selection."""
        for name, seen in self.calibration.items():
            if self.selection is not self.calibration:
                seen.merge(self.selection[name])
        return dict(self.calibration)

    def rounded(self, method: RangeMethod) -> ModelProto:
        """A copy with ranges of the calibration rows; values that have none stay float.

        Args:
            method: How ranges are found.

        Returns:
            The rounded model.
        """
        copy = ModelProto()
        copy.CopyFrom(self.model)
        grids = grids_of(self.calibration, method)
        round_values(copy, [value for value in self.placement.values if value.grid in grids], grids)
        return copy


def selected_weights(model: ModelProto, selection: SelectionOptions) -> dict[str, LocatedWeight]:
    """The weights of a model that are quantized.

    Args:
        model: The model.
        selection: Which of its weights.

    Returns:
        Weights by name.
    """
    return select(find(model, selection.min_size), selection)[0]


def best_rounding(
    model: ModelProto, selection: SelectionOptions, options: ActivationOptions, split: DataSplit
) -> tuple[RoundingCandidate, RangeMethod]:
    """The model as it is or with equalized channels, and the way to find ranges: least noise in the outputs.

    Args:
        model: The float model, of an opset that has what is needed.
        selection: Which weights are quantized.
        options: How ranges are found.
        split: Samples of the model's inputs.

    Returns:
        The candidate and the way.

    Raises:
        DataError: The model does not run on the samples.
    """
    sites = selected_weights(model, selection)
    rows_of_products = rows_a_sample(model, split)
    placement = place(model, sites, rows=rows_of_products)
    balanced = equalizable(model, sites, placement)
    plain = _candidate(model, placement, split, {one.value for one in balanced})
    methods = _COMPARED if options.ranges == "auto" else (options.ranges,)
    if not placement.values:
        return plain, methods[0]
    others = _with_equal_channels(model, placement, selection, balanced, plain.calibration)
    candidates = [plain, *(_candidate(other, there, split, balance=strength) for strength, other, there in others)]
    if len(candidates) == len(methods) == 1:
        return plain, methods[0]
    rows = thinned(batched(split.selection), _MOST_JUDGED)
    wanted = run_all(Session(model), rows)
    each = product(range(len(candidates)), methods)
    noises = {(k, method): noise_of(candidates[k].rounded(method), wanted, rows) for k, method in each}
    number, best = min(noises, key=lambda one: noises[one] * (1 if one[0] == 0 else 1 + _LEAST_GAIN))
    return candidates[number], best


def best_dynamic(model: ModelProto, selection: SelectionOptions, split: DataSplit | None) -> RoundingCandidate:
    """The model as it is or with equalized channels, its products rounded over the range of each run.

    Args:
        model: The float model, of an opset that has what is needed.
        selection: Which weights are quantized.
        split: Samples of the model's inputs; without the user's, channels stay as they are.

    Returns:
        The candidate of least noise in the outputs.

    Raises:
        DataError: The model does not run on the samples.
    """
    sites = selected_weights(model, selection)
    placement = place(model, sites, operators=PRODUCTS, rows=rows_a_sample(model, split))
    plain = RoundingCandidate(model=model, placement=placement, calibration={}, selection={}, balance=0.0)
    balanced = equalizable(model, sites, placement)
    if split is None or split.fitting.origin != "user" or not balanced:
        return plain
    seen = observe(model, [one.value for one in balanced], split.calibration, {one.value for one in balanced})
    others = _with_equal_channels(model, placement, selection, balanced, seen)
    candidates = [plain]
    candidates += [replace(plain, model=other, placement=there, balance=strength) for strength, other, there in others]
    rows = thinned(batched(split.selection), _MOST_JUDGED)
    wanted = run_all(Session(model), rows)
    noises = []
    for one in candidates:
        copy = ModelProto()
        copy.CopyFrom(one.model)
        round_dynamically(copy, one.placement.values)
        noises.append(noise_of(copy, wanted, rows) * (1 if one is plain else 1 + _LEAST_GAIN))
    return candidates[noises.index(min(noises))]


def rows_a_sample(model: ModelProto, split: DataSplit | None) -> dict[str, float]:
    """Rows that products have for each sample.

    Args:
        model: The model.
        split: Samples; None where there are none.

    Returns:
        By the name of their first operand; empty without samples.
    """
    if split is None or not split.calibration.feeds:
        return {}
    feed = split.calibration.feeds[0]
    shapes = {name: np.shape(value) for name, value in feed.items() if isinstance(value, np.ndarray)}
    samples = max(rows_of(feed, split.calibration.axes), 1)
    return {name: rows / samples for name, rows in product_rows(model, shapes).items()}


def _with_equal_channels(
    model: ModelProto,
    placement: Placement,
    selection: SelectionOptions,
    balanced: Sequence[Equalizable],
    seen: Mapping[str, Observed],
) -> Iterator[tuple[float, ModelProto, Placement]]:
    """Each strength with the equalized model and the placement of the same layers; none where nothing can be."""
    sites = selected_weights(model, selection)
    peaks = {one.value: seen[one.value].peaks for one in balanced}
    for strength in STRENGTHS if balanced else ():
        other = equalized(model, sites, all_factors(balanced, peaks, sites, strength))
        yield strength, other, place(other, integer_weights(placement, selected_weights(other, selection)))


def integer_weights(placement: Placement, sites: Mapping[str, LocatedWeight]) -> dict[str, LocatedWeight]:
    """The weights whose layers run on integers.

    Args:
        placement: Where a model is rounded.
        sites: Its weights, or those of an equalized copy.

    Returns:
        Weights by name.
    """
    names = set(placement.layers.values())
    return {name: located for name, located in sites.items() if name in names}


def _candidate(
    model: ModelProto, placement: Placement, split: DataSplit, by_channel: Collection[str] = (), balance: float = 0.0
) -> RoundingCandidate:
    names = [value.name for value in placement.values]
    floors = {value.name: value.floor for value in placement.values if value.floor is not None}
    first = observe(model, names, split.calibration, by_channel, floors)
    same = split.selection is split.calibration
    second = first if same else observe(model, names, split.selection, by_channel, floors)
    return RoundingCandidate(model=model, placement=placement, calibration=first, selection=second, balance=balance)


def noise_of(model: ModelProto, wanted: Outputs, rows: Data) -> float:
    """Noise-to-signal ratio of the outputs of a rounded model.

    Args:
        model: The model.
        wanted: Outputs of the float model.
        rows: The samples.

    Returns:
        The ratio; infinite where outputs are not finite.

    Raises:
        DataError: It does not run.
    """
    try:
        noise = relative_noise(wanted, run_all(Session(model, "as_written"), rows))
    except RuntimeFailure as failure:
        raise DataError(f"the model does not run on this data: {failure}") from failure
    return noise if math.isfinite(noise) else math.inf


def grids_of(observed: Mapping[str, Observed], ranges: RangeMethod) -> dict[str, ActivationGrid]:
    """The grids of all values that were seen.

    Args:
        observed: Statistics of the values.
        ranges: How ranges are found.

    Returns:
        By the name of the value; without those that have none.
    """
    found = {name: activation_grid(one.histogram, ranges) for name, one in observed.items()}
    return {name: grid for name, grid in found.items() if grid is not None}
