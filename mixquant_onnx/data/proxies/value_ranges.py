"""The value range in which a network expects pictures, from its constants, else the usual ranges in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import Feed, RuntimeFailure

_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""Mean and standard deviation of the channels of ImageNet pictures in 0..1, red first: what most training code
subtracts and divides by.
"""

RANGES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "mean and deviation": lambda pixels: (pixels - _of(pixels, _MEAN)) / _of(pixels, _DEVIATION),
    "-1..1": lambda pixels: pixels * 2 - 1,
    "0..1": lambda pixels: pixels,
    "0..255": lambda pixels: pixels * 255,
    "-127.5..127.5": lambda pixels: pixels * 255 - 127.5,
}
"""Conversions of pixels [..., channels] in 0..1."""

USUAL = ("mean and deviation", "-1..1", "0..1")
"""Ranges that are used in turn where the model does not tell."""

_SMALLEST_DEVIATION = 0.05
"""Standard deviation of the first layer's outputs on pictures in -1..1, below which the network expects 0..255: such
networks have about 0.01, others 0.2 to 2.7 (the labelled models of docs/research/accuracy.md).
"""

_THROUGH = frozenset({"Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Concat"})


def _of(pixels: FloatArray, colours: FloatArray) -> FloatArray:
    return colours if pixels.shape[-1] == 3 else np.asarray(colours.mean())


def ranges_of(model: ModelProto, name: str, feeds_in: Callable[[str], list[Feed]]) -> tuple[str, ...]:
    """The value ranges to use in turn for an input of pictures.

    The statistics of a BatchNormalization behind the first layer determine it, as do constants that pictures are
    divided by or shifted with; a first layer that hardly reacts to -1..1 expects 0..255.

    Args:
        model: The model.
        name: Name of the input.
        feeds_in: Gives a few batches of pictures in a range.

    Returns:
        Names in `RANGES`.
    """
    first = _beginning(model, name)
    if first is None:
        return USUAL
    if first.scaled:
        return ("0..255",) if first.large else ("0..1",)
    found = {r: _statistics(model, first, feeds_in(r)) for r in RANGES}
    if any(one is None for one in found.values()):
        return USUAL
    known = {r: one for r, one in found.items() if one is not None}
    if first.normalization is not None:
        return (_nearest(known, first.normalization, model),)
    deviation = float(np.median(known["-1..1"][1]))
    return ("0..255", "-127.5..127.5") if deviation < _SMALLEST_DEVIATION else USUAL


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Beginning:
    """The first operators behind an input.

    Attributes:
        value: Output of the first layer.
        channel: Its channel axis.
        normalization: A BatchNormalization behind the layer, or None.
        scaled: Whether constants scale or shift the input.
        large: Whether those constants are for pictures in 0..255.
    """

    value: str
    channel: int
    normalization: NodeProto | None
    scaled: bool
    large: bool


_LAYERS = {"Conv": 1, "MatMul": -1, "Gemm": -1}
"""Operators of a first layer, and the channel axis of their outputs."""

_LARGE_SHIFT = 4.0
"""A constant that is subtracted or divided by; beyond it, pictures are in 0..255."""


def _beginning(model: ModelProto, name: str) -> _Beginning | None:
    constants = _constants(model)
    scaled = large = False
    for _ in range(12):
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            return None
        node = readers[0]
        if node.op_type in _LAYERS:
            after = [n for n in model.graph.node if node.output[0] in n.input]
            normal = after[0] if len(after) == 1 and after[0].op_type == "BatchNormalization" else None
            return _Beginning(
                value=node.output[0], channel=_LAYERS[node.op_type], normalization=normal, scaled=scaled, large=large
            )
        if node.op_type in ("Sub", "Add", "Mul", "Div"):
            size = max((float(np.abs(constants[i]).max()) for i in node.input if i in constants), default=0.0)
            if not size:
                return None
            scaled = True
            large |= size > _LARGE_SHIFT if node.op_type != "Mul" else size < 1 / _LARGE_SHIFT / 8
        elif node.op_type not in _THROUGH:
            return None
        name = node.output[0]
    return None


def _constants(model: ModelProto) -> Mapping[str, FloatArray]:
    """The small constants of the main graph."""
    found = {name: values_of(t) for name, t in _stored(model).items() if int(np.prod(t.dims)) <= 16}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value_float":
            found[node.output[0]] = np.array(node.attribute[0].f)
    return {name: value for name, value in found.items() if value.size and value.dtype.kind == "f"}


def _stored(model: ModelProto) -> dict[str, TensorProto]:
    """Tensors of the main graph, by name."""
    return tensors_of(walk(model)[0])


_LOOKED_AT = 48
"""Most positions along each axis for the mean and standard deviation of a channel. Affects speed."""


def _statistics(model: ModelProto, first: _Beginning, feeds: list[Feed]) -> tuple[FloatArray, FloatArray] | None:
    """Mean and deviation of each channel of the first layer's output; None where the model does not run."""
    try:
        runs = IncrementalExecutor(model, [first.value], feeds).values([first.value])
        found = [_some(np.moveaxis(run[first.value], first.channel, -1)) for run in runs]
    except RuntimeFailure:
        return None
    flat = np.concatenate(found).astype(np.float64)
    return flat.mean(0), flat.std(0)


def _some(value: FloatArray) -> FloatArray:
    """[positions, channels] of `value` [..., channels], evenly spaced."""
    every = tuple(slice(None, None, max(1, size // _LOOKED_AT)) for size in value.shape[:-1])
    return np.array(value[every].reshape(-1, value.shape[-1]))


def _nearest(found: Mapping[str, tuple[FloatArray, FloatArray]], normalization: NodeProto, model: ModelProto) -> str:
    """The range whose statistics are nearest to those that the network was trained with (a Gaussian likelihood)."""
    stored = _stored(model)
    if any(name not in stored for name in normalization.input[3:5]):
        return USUAL[0]
    mean, variance = (values_of(stored[n]).astype(np.float64) for n in normalization.input[3:5])
    live = variance > 1e-3 * np.median(variance)
    if not live.any():
        return USUAL[0]

    def distance(name: str) -> float:
        own_mean, own = found[name]
        ratio = np.maximum(own[live] ** 2, 1e-12) / variance[live]
        shift = (own_mean[live] - mean[live]) ** 2 / variance[live]
        return float(np.median(np.maximum(ratio, 1 / ratio) + shift))

    return min(found, key=distance)
