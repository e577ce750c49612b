"""A model whose layers read inputs rounded to 8 bits, from a float model and samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from onnx import ModelProto

from mixquant_onnx.config.activations import ActivationOptions, RangeMethod
from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.data.dataset import Data, DataSplit, batched, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.errors import DataError, OptionError
from mixquant_onnx.export.activations import at_integer_opset, round_values, rounds_activations
from mixquant_onnx.export.equalize import equalized
from mixquant_onnx.export.ir_version import raise_ir
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import LocatedWeight, find
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.planning.select_weights import select
from mixquant_onnx.quantization.activations.equalization import STRENGTHS, all_factors, equalizable
from mixquant_onnx.quantization.activations.histogram import Histogram
from mixquant_onnx.quantization.activations.observers import Observed, observe
from mixquant_onnx.quantization.activations.placement import Placement, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid, activation_grid
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_MOST_JUDGED = 32
"""Most samples on which ways to round are compared: bounds the time."""

_COMPARED: tuple[RangeMethod, ...] = ("minmax", "percentile", "mse")
"""Ways that `auto` chooses from: entropy was best on none of six models (docs/activations.md)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerModel:
    """A model with rounded activations.

    Attributes:
        loaded: The model; `loaded.float_model` is the one that it was made of.
        placement: Where it is rounded.
        grids: The grids of its values.
        ranges: How their ranges were found.
        balance: Strength of the equalization of channels; 0 for none.
        notes: Layers that stay in float, and why.
    """

    loaded: Loaded
    placement: Placement
    grids: Mapping[str, ActivationGrid]
    ranges: RangeMethod
    balance: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Candidate:
    """A float model, where it is to be rounded, and what was seen of its values on each part of the data."""

    model: ModelProto
    placement: Placement
    calibration: Mapping[str, Observed]
    selection: Mapping[str, Observed]
    balance: float

    def rounded(self, method: RangeMethod) -> ModelProto:
        """A copy with ranges of the calibration rows; values that have none stay float."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        grids = _grids(self.placement, self.calibration, method)
        round_values(copy, [value for value in self.placement.values if value.grid in grids], grids)
        return copy


def integer_model(
    loaded: Loaded, selection: SelectionOptions, options: ActivationOptions, split: DataSplit
) -> IntegerModel | None:
    """Round the inputs and outputs of layers to 8 bits.

    Args:
        loaded: The float model.
        selection: Which weights are quantized.
        options: How ranges are found.
        split: Samples of the model's inputs.

    Returns:
        The model, with float weights; None where no layer can run on integers.

    Raises:
        OptionError: The model has activations on integers already.
        ModelError: The model cannot be raised to the opset that is needed.
        DataError: The model does not run on the samples.
    """
    if rounds_activations(loaded.model):
        raise OptionError("--activations 8: this model has activations on integers already; leave it out")
    model = at_integer_opset(loaded.model)
    raise_ir(model)
    chosen, ranges = _chosen(model, selection, options, split)
    for name, seen in chosen.calibration.items():
        if chosen.selection is not chosen.calibration:
            seen.merge(chosen.selection[name])
    dead = {name for name, seen in chosen.calibration.items() if activation_grid(seen.histogram, ranges) is None}
    placement = chosen.placement
    if dead:
        sites = _sites(chosen.model, selection)
        placement = place(chosen.model, sites, _reading(chosen.model, placement, dead))
    if not placement.values:
        return None
    grids = _grids(placement, chosen.calibration, ranges)
    round_values(chosen.model, placement.values, grids)
    return IntegerModel(
        loaded=replace(loaded, model=chosen.model, original=loaded.model),
        placement=placement,
        grids=grids,
        ranges=ranges,
        balance=chosen.balance,
        notes=tuple(_why(name, chosen.calibration[name].histogram) for name in sorted(dead)),
    )


def _sites(model: ModelProto, selection: SelectionOptions) -> dict[str, LocatedWeight]:
    return select(find(model, selection.min_size), selection)[0]


def _chosen(
    model: ModelProto, selection: SelectionOptions, options: ActivationOptions, split: DataSplit
) -> tuple[_Candidate, RangeMethod]:
    """The model as it is or with equalized channels, and the way to find ranges: least noise in the outputs."""
    sites = _sites(model, selection)
    placement = place(model, sites)
    balanced = equalizable(model, sites, placement)
    plain = _candidate(model, placement, split, {one.value for one in balanced})
    methods = _COMPARED if options.ranges == "auto" else (options.ranges,)
    if not placement.values:
        return plain, methods[0]
    candidates = [plain]
    for strength in STRENGTHS if balanced else ():
        peaks = {one.value: plain.calibration[one.value].peaks for one in balanced}
        other = equalized(model, sites, all_factors(balanced, peaks, sites, strength))
        candidates.append(_candidate(other, place(other, _sites(other, selection)), split, balance=strength))
    if len(candidates) == len(methods) == 1:
        return plain, methods[0]
    rows = thinned(batched(split.selection), _MOST_JUDGED)
    wanted = run_all(Session(model), rows)
    tried = [
        (_noise(one.rounded(method), wanted, rows), k, method) for k, one in enumerate(candidates) for method in methods
    ]
    _, number, method = min(tried)
    return candidates[number], method


def _candidate(
    model: ModelProto, placement: Placement, split: DataSplit, by_channel: Collection[str] = (), balance: float = 0.0
) -> _Candidate:
    names = [value.name for value in placement.values]
    first = observe(model, names, split.calibration, by_channel)
    same = split.selection is split.calibration
    second = first if same else observe(model, names, split.selection, by_channel)
    return _Candidate(model=model, placement=placement, calibration=first, selection=second, balance=balance)


def _noise(model: ModelProto, wanted: Outputs, rows: Data) -> float:
    try:
        noise = relative_noise(wanted, run_all(Session(model, "as_written"), rows))
    except RuntimeFailure as failure:
        raise DataError(f"the model does not run on this data: {failure}") from failure
    return noise if math.isfinite(noise) else math.inf


def _grids(placement: Placement, observed: Mapping[str, Observed], ranges: RangeMethod) -> dict[str, ActivationGrid]:
    found = {value.grid: activation_grid(observed[value.grid].histogram, ranges) for value in placement.values}
    return {name: grid for name, grid in found.items() if grid is not None}


def _reading(model: ModelProto, placement: Placement, dead: Collection[str]) -> set[str]:
    """Weights whose layers read one of the values `dead`, or give it, perhaps through another node."""
    near, layers = set(dead), set[str]()
    for node in model.graph.node:
        if near & set(node.output):
            near.update(node.input)
    for node in model.graph.node:
        if node.output and node.output[0] in placement.layers and near & {node.output[0], node.input[0]}:
            layers.add(placement.layers[node.output[0]])
    return layers


def _why(name: str, histogram: Histogram) -> str:
    reason = "is 0 on all rows of --data" if histogram.usable else "is NaN or infinite on some rows of --data"
    return f"'{name}' {reason}: layers around it stay in float"
