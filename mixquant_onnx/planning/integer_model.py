"""A model whose layers read inputs rounded to 8 bits, from a float model and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnx import ModelProto

from mixquant_onnx.config.activations import ActivationOptions, RangeMethod
from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import OptionError
from mixquant_onnx.export.activations import at_integer_opset, round_dynamically, round_values, rounds_activations
from mixquant_onnx.export.ir_version import raise_ir
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.planning.float_layers import Rounding, layers_in_float
from mixquant_onnx.planning.rounding_candidates import (
    best_dynamic,
    best_rounding,
    grids_of,
    integer_weights,
    selected_weights,
)
from mixquant_onnx.quantization.activations.histogram import Histogram
from mixquant_onnx.quantization.activations.placement import Placement, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerModel:
    """A model with rounded activations.

    Attributes:
        loaded: The model; `loaded.float_model` is the one that it was made of.
        placement: Where it is rounded.
        grids: The grids of its values.
        ranges: How their ranges were found; dynamic: those of each run.
        balance: Strength of the equalization of channels; 0 for none.
        in_float: Weights whose layers stay in float, because rounding their activations costs most.
        notes: Other layers that stay in float, and why.
    """

    loaded: Loaded
    placement: Placement
    grids: Mapping[str, ActivationGrid]
    ranges: RangeMethod | Literal["dynamic"]
    balance: float
    in_float: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def integer_model(
    loaded: Loaded, selection: SelectionOptions, options: ActivationOptions, split: DataSplit | None
) -> IntegerModel | None:
    """Round the inputs and outputs of layers to 8 bits.

    Args:
        loaded: The float model.
        selection: Which weights are quantized.
        options: How ranges are found.
        split: Samples of the model's inputs; None only for dynamic ranges.

    Returns:
        The model, with float weights; None where no layer can run on integers.

    Raises:
        OptionError: The model has activations on integers already.
        ModelError: The model cannot be raised to the opset that is needed.
        DataError: The model does not run on the samples.
    """
    if rounds_activations(loaded.model):
        raise OptionError("--activations: this model has activations on integers already; leave it out")
    model = at_integer_opset(loaded.model)
    notes = raise_ir(model)
    if options.activations == "dynamic" or split is None:
        return _dynamic(loaded, model, selection, split, notes)
    chosen, ranges = best_rounding(model, selection, options, split)
    for name, seen in chosen.calibration.items():
        if chosen.selection is not chosen.calibration:
            seen.merge(chosen.selection[name])
    observed = chosen.calibration
    sites = integer_weights(chosen.placement, selected_weights(chosen.model, selection))
    grids = grids_of(observed, ranges)
    dead = set(observed) - set(grids)
    notes += [_why(name, observed[name].histogram) for name in sorted(dead)]
    placement = place(chosen.model, sites, unusable=dead)
    float_layers: set[str] = set()
    if options.guard and placement.values:
        rounding = Rounding(model=chosen.model, sites=sites, placement=placement, grids=grids, unusable=dead)
        float_layers = layers_in_float(rounding, observed, split.selection)
        placement = rounding.without(float_layers)
    if not placement.values:
        return None
    round_values(chosen.model, placement.values, grids)
    return IntegerModel(
        loaded=replace(loaded, model=chosen.model, original=loaded.model),
        placement=placement,
        grids=grids,
        ranges=ranges,
        balance=chosen.balance,
        in_float=tuple(sorted(float_layers)),
        notes=tuple(notes),
    )


def _dynamic(
    loaded: Loaded, model: ModelProto, selection: SelectionOptions, split: DataSplit | None, notes: Sequence[str]
) -> IntegerModel | None:
    """Products alone, their inputs over the range of each run."""
    chosen = best_dynamic(model, selection, split)
    if not chosen.placement.values:
        return None
    round_dynamically(chosen.model, chosen.placement.values)
    made = replace(loaded, model=chosen.model, original=loaded.model)
    return IntegerModel(
        loaded=made,
        placement=chosen.placement,
        grids={},
        ranges="dynamic",
        balance=chosen.balance,
        notes=tuple(notes),
    )


def _why(name: str, histogram: Histogram) -> str:
    reason = "is 0 on all rows of --data" if histogram.usable else "is NaN or infinite on some rows of --data"
    return f"'{name}' {reason}: layers around it stay in float"
