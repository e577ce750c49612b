"""A model whose layers read inputs rounded to 8 bits, from a float model and samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, helper

from mixquant_onnx.config.activations import ActivationOptions, RangeMethod
from mixquant_onnx.config.stages import SelectionOptions
from mixquant_onnx.data.dataset import Data, DataSplit, batched, thinned
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.errors import DataError, OptionError
from mixquant_onnx.export.activations import at_integer_opset, round_values, rounds_activations
from mixquant_onnx.export.ir_version import raise_ir
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.planning.select_weights import select
from mixquant_onnx.quantization.activations.histogram import Histogram
from mixquant_onnx.quantization.activations.placement import Placement, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid, activation_grid
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_MOST_ROWS = 512
"""Most samples whose values are counted, in evenly spaced batches: bounds the time."""

_MOST_JUDGED = 32
"""Most samples on which ways to find a range are compared: bounds the time."""


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
        notes: Layers that stay in float, and why.
    """

    loaded: Loaded
    placement: Placement
    grids: Mapping[str, ActivationGrid]
    ranges: RangeMethod
    notes: tuple[str, ...] = ()


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
    sites, _ = select(find(model, selection.min_size), selection)
    placement = place(model, sites)
    names = [value.name for value in placement.values]
    first = _observed(model, names, split.calibration)
    second = first if split.selection is split.calibration else _observed(model, names, split.selection)
    ranges = _ranges(model, sites_placed=placement, histograms=first, options=options, split=split)
    if second is not first:
        for name in names:
            first[name].merge(second[name])
    dead = {name for name, found in first.items() if activation_grid(found, ranges) is None}
    if dead:
        placement = place(model, sites, _reading(model, placement, dead))
    if not placement.values:
        return None
    grids = _grids(placement, first, ranges)
    round_values(model, placement.values, grids)
    made = replace(loaded, model=model, original=loaded.model)
    notes = tuple(_why(name, first[name]) for name in sorted(dead))
    return IntegerModel(loaded=made, placement=placement, grids=grids, ranges=ranges, notes=notes)


def _grids(placement: Placement, histograms: Mapping[str, Histogram], ranges: RangeMethod) -> dict[str, ActivationGrid]:
    found = {value.grid: activation_grid(histograms[value.grid], ranges) for value in placement.values}
    return {name: grid for name, grid in found.items() if grid is not None}


def _ranges(
    model: ModelProto,
    *,
    sites_placed: Placement,
    histograms: Mapping[str, Histogram],
    options: ActivationOptions,
    split: DataSplit,
) -> RangeMethod:
    """The way to find ranges: the one asked for, or that of least noise in the outputs."""
    if options.ranges != "auto":
        return options.ranges
    rows = thinned(batched(split.selection), _MOST_JUDGED)
    try:
        wanted = run_all(Session(model), rows)
    except RuntimeFailure as failure:
        raise DataError(f"the float model does not run on this data: {failure}") from failure
    noises: dict[RangeMethod, float] = {}
    for method in _COMPARED:
        copy = ModelProto()
        copy.CopyFrom(model)
        grids = _grids(sites_placed, histograms, method)
        usable = [value for value in sites_placed.values if value.grid in grids]
        round_values(copy, usable, grids)
        noise = relative_noise(wanted, run_all(Session(copy, "as_written"), rows))
        noises[method] = noise if math.isfinite(noise) else math.inf
    return min(noises, key=noises.__getitem__)


def _observed(model: ModelProto, names: Sequence[str], data: Data) -> dict[str, Histogram]:
    """Histograms of values of the main graph, in one pass."""
    wider = ModelProto()
    wider.CopyFrom(model)
    given = {value.name for value in wider.graph.input}
    known = {value.name for value in wider.graph.output}
    inside = [name for name in names if name not in given]
    wider.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inside if name not in known)
    histograms = {name: Histogram() for name in names}
    try:
        session = Session(wider)
        for feed in thinned(batched(data), _MOST_ROWS).feeds:
            values = dict(zip(inside, session.run(feed, inside), strict=True)) if inside else {}
            for name, histogram in histograms.items():
                histogram.add(values[name] if name in values else feed[name])
    except RuntimeFailure as failure:
        raise DataError(f"the float model does not run on this data: {failure}") from failure
    return histograms


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
