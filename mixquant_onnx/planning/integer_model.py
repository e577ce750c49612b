"""A model whose layers read inputs rounded to 8 bits, from a float model and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnx import ModelProto

from mixquant_onnx.config.activations import ActivationOptions, RangeMethod
from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import OptionError
from mixquant_onnx.export.activations import at_integer_opset, round_dynamically, round_values, rounds_activations
from mixquant_onnx.export.fold_convolutions import fold_convolutions
from mixquant_onnx.export.integer_form import restore, to_integer_form
from mixquant_onnx.export.ir_version import raise_ir
from mixquant_onnx.export.targets.lstm_kernels import in_lstm
from mixquant_onnx.model.dependencies import drop_initializers, unread_initializers
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.planning.float_layers import layers_in_float
from mixquant_onnx.planning.guard_goal import GuardGoal
from mixquant_onnx.planning.layer_times import elements_of_products
from mixquant_onnx.planning.rounding import Rounding
from mixquant_onnx.planning.rounding_candidates import (
    best_dynamic,
    best_rounding,
    grids_of,
    integer_weights,
    rows_a_sample,
    selected_weights,
)
from mixquant_onnx.planning.slow_layers import slow_layers
from mixquant_onnx.quantization.activations.histogram import Histogram
from mixquant_onnx.quantization.activations.placement import Placement, place
from mixquant_onnx.quantization.activations.value_graph import ValueGraph

NO_LAYER = (
    "no layer runs on integers, for lack of a Conv or of a MatMul or Gemm that is large enough, in the main graph and "
    "with a float32 weight as its second input; weights alone are quantized"
)
SLOWER = (
    "no layer runs on integers, as all are so small that float is quicker by the table of docs/research/activations.md"
    "; weights alone are quantized"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerModel:
    """A model with rounded activations.

    Attributes:
        loaded: The model; `loaded.float_model` is the one that it was made of.
        placement: Where it is rounded.
        ranges: How their ranges were found; dynamic: those of each run.
        balance: Strength of the equalization of channels; 0 for none.
        in_float: Weights whose layers stay in float, because rounding their activations costs most.
        slow: Weights whose layers stay in float, because they are quicker there.
        notes: Other layers that stay in float, and why.
    """

    loaded: Loaded
    placement: Placement
    ranges: RangeMethod | Literal["dynamic"]
    balance: float
    in_float: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def integer_model(
    loaded: Loaded,
    selection: SelectionOptions,
    options: ActivationOptions,
    split: DataSplit | None,
    goal: GuardGoal | None = None,
) -> IntegerModel | str:
    """Round the inputs and outputs of layers to 8 bits.

    Args:
        loaded: The float model.
        selection: Which weights are quantized.
        options: How ranges are found.
        split: Samples of the model's inputs; None only for dynamic ranges.
        goal: When outputs are good enough with all layers on integers; None for what is usual.

    Returns:
        The model, with float weights; or why no layer runs on integers.

    Raises:
        OptionError: The model has activations on integers already.
        ModelError: The model cannot be raised to the opset that is needed.
        DataError: The model does not run on the samples.
    """
    made = _rounded(loaded, selection, options, split, goal or GuardGoal())
    if not isinstance(made, str):
        return made
    lstms = [name for name, located in selected_weights(loaded.model, selection).items() if in_lstm(located)]
    if not lstms:
        return made
    model = ModelProto()
    model.CopyFrom(loaded.model)
    return IntegerModel(
        loaded=replace(loaded, model=model, original=loaded.model),
        placement=Placement(layers={}),
        ranges="dynamic",
        balance=0.0,
    )


def _rounded(
    loaded: Loaded, selection: SelectionOptions, options: ActivationOptions, split: DataSplit | None, goal: GuardGoal
) -> IntegerModel | str:
    """The model with rounded values, or why there are none."""
    if rounds_activations(loaded.model):
        raise OptionError("--activations: this model has activations on integers already; leave it out")
    model = at_integer_opset(loaded.model)
    notes = raise_ir(model)
    if options.activations == "dynamic" or split is None:
        return _dynamic(loaded, model, selection, options, split, goal, notes)
    fold_convolutions(model)
    substitutes = to_integer_form(model)
    chosen, ranges = best_rounding(model, selection, options, split)
    sites = integer_weights(chosen.placement, selected_weights(chosen.model, selection))
    observed = chosen.observed()
    grids = grids_of(observed, ranges)
    dead = frozenset(observed) - set(grids)
    notes += [_why(name, observed[name].histogram) for name in sorted(dead)]
    rounding = Rounding(
        model=chosen.model,
        sites=sites,
        placement=place(chosen.model, sites, unusable=dead),
        elements={name: one.histogram.total / max(one.samples, 1) for name, one in observed.items()},
        grids=grids,
        unusable=dead,
    )
    made = _made(rounding, loaded, options, goal, split, ranges, chosen.balance, notes)
    if isinstance(made, str):
        return made
    used = {value.name for value in made.placement.values}
    restore(chosen.model, [one for one in substitutes if not one.results & used])
    round_values(chosen.model, made.placement.values, grids)
    drop_initializers(chosen.model, unread_initializers(chosen.model) - unread_initializers(loaded.model))
    return made


def _dynamic(
    loaded: Loaded,
    model: ModelProto,
    selection: SelectionOptions,
    options: ActivationOptions,
    split: DataSplit | None,
    goal: GuardGoal,
    notes: Sequence[str],
) -> IntegerModel | str:
    """Products alone, their inputs over the range of each run."""
    chosen = best_dynamic(model, selection, split)
    sites = integer_weights(chosen.placement, selected_weights(chosen.model, selection))
    rows = rows_a_sample(chosen.model, split)
    elements = elements_of_products(ValueGraph(chosen.model), sites, chosen.placement, rows)
    rounding = Rounding(model=chosen.model, sites=sites, placement=chosen.placement, elements=elements, grids=None)
    made = _made(rounding, loaded, options, goal, split, "dynamic", chosen.balance, notes)
    if isinstance(made, IntegerModel):
        round_dynamically(chosen.model, made.placement.values)
    return made


def _made(
    rounding: Rounding,
    loaded: Loaded,
    options: ActivationOptions,
    goal: GuardGoal,
    split: DataSplit | None,
    ranges: RangeMethod | Literal["dynamic"],
    balance: float,
    notes: Sequence[str],
) -> IntegerModel | str:
    """What is to be rounded once layers are left in float; the model is not changed yet."""
    if not rounding.placement.values:
        return NO_LAYER
    float_layers: set[str] = set()
    by_user = split is not None and split.fitting.origin == "user"
    if split is not None and ((options.guard and by_user) or goal.layers is not None):
        float_layers = layers_in_float(rounding, goal, split.selection)
    slow = slow_layers(rounding, float_layers)
    placement = rounding.without(float_layers | slow) if float_layers | slow else rounding.placement
    if not placement.values:
        return SLOWER if slow else NO_LAYER
    return IntegerModel(
        loaded=replace(loaded, model=rounding.model, original=loaded.model),
        placement=placement,
        ranges=ranges,
        balance=balance,
        in_float=tuple(sorted(float_layers)),
        slow=tuple(sorted(slow)),
        notes=tuple(notes),
    )


def _why(name: str, histogram: Histogram) -> str:
    reason = "is 0 on all rows of --data" if histogram.usable else "is NaN or infinite on some rows of --data"
    return f"'{name}' {reason}: layers around it stay in float"
