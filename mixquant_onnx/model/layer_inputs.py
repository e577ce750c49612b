"""The input that a weight is multiplied with, as samples [groups, n, K] in the order of the weight's rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from mixquant_onnx.model.operators import ActivationInput, Attributes, attributes, weight_input
from mixquant_onnx.model.padding import window_padding
from mixquant_onnx.model.scopes import subgraphs
from mixquant_onnx.model.taps import Place, can_expose
from mixquant_onnx.model.weights import LocatedWeight, Reader, WeightTensor
from mixquant_onnx.numerics.arrays import FloatArray

_KEEP_ORDER = frozenset({"Identity", "Transpose", "Cast", "Squeeze", "Unsqueeze"})
"""Operators between a weight and a product that keep the order of its elements, or swap the two axes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Feature:
    """Location of the input of a weight, and how a value there becomes samples.

    Attributes:
        place: Scope and name of the value.
        kind: "conv" for patches, "last" or "first" for vectors along the last axis or the one before it.
        groups: Groups of a convolution, else 1.
        width: Inputs K of each output.
        kernel: Spatial shape of a convolution's kernel.
        attributes: Attributes of a convolution.
    """

    place: Place
    kind: str
    groups: int
    width: int
    kernel: tuple[int, ...] = ()
    attributes: Attributes | None = None

    def rows(self, value: FloatArray, count: int, seed: int) -> NDArray[np.float32] | None:
        """Samples of the input.

        Args:
            value: The value at `place`.
            count: Most samples.
            seed: Seed of the random choice; equal seeds give samples of the same positions.

        Returns:
            [groups, n, width] float32; None where the value is empty or its shape does not fit the weight.
        """
        if value.size == 0:
            return None
        if self.kind == "conv":
            return _patches(value, self, count, seed)
        moved = np.moveaxis(value, -2, -1) if self.kind == "first" and value.ndim > 1 else value
        flat = moved.reshape(-1, moved.shape[-1])
        if flat.shape[1] != self.width:
            return None
        return np.ascontiguousarray(flat[_drawn(len(flat), count, seed)], np.float32)[None]


def _drawn(total: int, count: int, seed: int) -> NDArray[np.int64]:
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def reading_order(model: ModelProto, sites: Mapping[str, LocatedWeight]) -> tuple[list[str], frozenset[str]]:
    """Weights in the order in which the model computes what they meet.

    An embedding that is the head's matrix too stands where the head is: a table meets no inputs of its own.

    Args:
        model: The model; its graphs are sorted topologically (ONNX IR).
        sites: Its weights by name.

    Returns:
        The names of `sites`, and those of weights that are read earlier too.
    """
    numbers: dict[int, int] = {}

    def number(graph: GraphProto) -> None:
        for node in graph.node:
            numbers[id(node)] = len(numbers)
            for _, inner in subgraphs(node):
                number(inner)

    number(model.graph)
    places, earlier = {}, set()
    for name, located in sites.items():
        # Protobuf returns other objects for the same node after a graph was edited; then the order of storage is used.
        read = [numbers.get(id(reader.node), 1 << 30) for reader in located.readers]
        met = (place for place, r in zip(read, located.readers, strict=True) if _of_reader(located, r) is not None)
        places[name] = next(met, min(read, default=1 << 30))
        if places[name] > min(read, default=1 << 30):
            earlier.add(name)
    return sorted(sites, key=places.__getitem__), frozenset(earlier)


def feature_of(located: LocatedWeight) -> Feature | None:
    """The feature of the first reader whose input can be read.

    Args:
        located: The weight.

    Returns:
        The feature; None where there is none, or its shape does not fit the weight.
    """
    for reader in located.readers:
        found = _of_reader(located, reader)
        if found is not None:
            return found if _fits(located.site, found) else None
    return None


def _fits(site: WeightTensor, feature: Feature) -> bool:
    """Whether the weight's rows are as wide as its inputs, and divide evenly among their groups."""
    p, r, q, s = site.layout.sizes(site.shape)
    return r * s == feature.width and (p * q) % feature.groups == 0


def _of_reader(located: LocatedWeight, reader: Reader) -> Feature | None:
    row = weight_input(reader.node, reader.index)
    if row is None or row.activation is None or not can_expose(reader.scope):
        return None
    name = reader.node.input[row.activation.index]
    home = reader.scope.resolve(name)
    if home is None:
        return None
    return _OF_KIND[row.activation.kind](located, reader, row.activation, (home.path, name))


def _convolution(located: LocatedWeight, reader: Reader, _: ActivationInput, place: Place) -> Feature | None:
    if reader.steps:
        return None
    at, shape = attributes(reader.node), located.site.shape
    groups, width = int(at.get("group", 1)), math.prod(shape[1:])
    return Feature(place=place, kind="conv", groups=groups, width=width, kernel=shape[2:], attributes=at)


def _sequence(located: LocatedWeight, reader: Reader, _: ActivationInput, place: Place) -> Feature | None:
    layout = located.site.layout
    # Where a step does more than move the stored numbers, they are not multiplied with the input of the node.
    if not all(step.moves_only for step in reader.steps) or layout.s or layout.q:
        return None
    return Feature(place=place, kind="last", groups=1, width=layout.sizes(located.site.shape)[1])


def _product(located: LocatedWeight, reader: Reader, meets: ActivationInput, place: Place) -> Feature | None:
    shape, layout = located.site.shape, located.site.layout
    if len(shape) != 2 or not all(step.op in _KEEP_ORDER for step in reader.steps):
        return None
    flipped = bool(attributes(reader.node).get(meets.flipped_by, 0))
    kind = "last" if (meets.axis == "last") != flipped else "first"
    width = math.prod(layout.sizes(shape)[k] for k in (1, 3))
    return Feature(place=place, kind=kind, groups=1, width=width)


_OF_KIND = {"convolution": _convolution, "sequence": _sequence, "product": _product}


def _patches(value: FloatArray, feature: Feature, count: int, seed: int) -> NDArray[np.float32] | None:
    """im2col at randomly chosen positions.

    Args:
        value: Input of the convolution, [batch, channels, spatial...].
        feature: Its kernel and attributes.
        count: Most positions.
        seed: Seed of the choice.

    Returns:
        [groups, n, width] float32; None where shapes do not fit.

    Source:
        ONNX Conv-11, attributes group, kernel_shape, pads, auto_pad, strides, dilations.
    """
    at, kernel, spatial = feature.attributes or {}, feature.kernel, value.shape[2:]
    taps = math.prod(kernel)
    if len(spatial) != len(kernel) or value.shape[1] * taps != feature.groups * feature.width:
        return None
    strides = [int(v) for v in at.get("strides", [1] * len(kernel))]
    dilations = [int(v) for v in at.get("dilations", [1] * len(kernel))]
    before, after = window_padding(at, spatial, kernel)
    axes = list(zip(spatial, before, after, kernel, strides, dilations, strict=True))
    sizes = [(n + b + a - (k - 1) * d - 1) // s + 1 for n, b, a, k, s, d in axes]
    if min(sizes) < 1:
        return None
    sample, *places = np.unravel_index(_drawn(len(value) * math.prod(sizes), count, seed), (len(value), *sizes))
    offsets = np.meshgrid(*(np.arange(k) for k in kernel), indexing="ij")
    read, padded = np.zeros((len(sample), taps), np.int64), np.zeros((len(sample), taps), np.bool_)
    for place, offset, (size, first, _, _, stride, dilation) in zip(places, offsets, axes, strict=True):
        position = place[:, None] * stride - first + offset.reshape(-1) * dilation
        padded |= (position < 0) | (position >= size)
        read = read * size + position
    return _gathered(value, feature.groups, sample, np.where(padded, 0, read), padded)


_LEAST_BLOCK = 1024
"""Positions of the input that are gathered from at once, in whole samples. Affects speed alone."""


def _gathered(
    value: FloatArray, groups: int, sample: NDArray[np.int64], read: NDArray[np.int64], padded: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Elements of all channels at some positions.

    Args:
        value: [batch, channels, spatial...].
        groups: Groups of channels.
        sample: Index [n] into the batch, ascending.
        read: Positions [n, taps] in the flattened spatial axes.
        padded: Which of them are padding, and so zero.

    Returns:
        [groups, n, channels / groups * taps] float32.
    """
    channels, area, (count, taps) = value.shape[1], math.prod(value.shape[2:]), read.shape
    # The patches of a depthwise convolution are in the order in which they are gathered.
    whole = groups == channels and len(value) * area <= count * taps
    step = len(value) if whole else -(-_LEAST_BLOCK // area)
    rows = np.empty((groups, 0 if whole else count, channels // groups, taps), np.float32)
    bounds = np.searchsorted(sample, np.arange(0, len(value) + step, step))
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        if low == high:
            continue
        inside = read[low:high] + (sample[low:high, None] - number * step) * area
        found = _taken(value[number * step : (number + 1) * step], inside, padded[low:high])
        found = found.reshape(groups, -1, high - low, taps).swapaxes(1, 2)
        if whole:
            rows = np.ascontiguousarray(found, np.float32)
        else:
            rows[:, low:high] = found
    return rows.reshape(groups, count, -1)


def _taken(block: FloatArray, read: NDArray[np.int64], padded: NDArray[np.bool_]) -> FloatArray:
    """Elements of each channel of a few samples; positions ascend, so that memory is read almost in order.

    Args:
        block: [samples, channels, spatial...].
        read: Positions [n, taps] in a channel of all samples.
        padded: Which of them are zero.

    Returns:
        [channels, n * taps] in the type of `block`.
    """
    channels = block.reshape(*block.shape[:2], -1).swapaxes(0, 1)
    size = channels[0].size
    if padded.any() and size <= 2 * read.size:
        # A copy with a zero behind each channel is cheaper than to set many elements to zero.
        spare = np.zeros((len(channels), size + 1), block.dtype)
        spare[:, :-1].reshape(channels.shape)[...] = channels
        return spare.take(np.where(padded, size, read).reshape(-1), axis=1, mode="clip")
    found = channels.reshape(len(channels), -1).take(read.reshape(-1), axis=1, mode="clip")
    found[:, padded.reshape(-1)] = 0
    return found
