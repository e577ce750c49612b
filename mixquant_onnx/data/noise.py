"""Random inputs that are valid for a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data as Data
from mixquant_onnx.data.dataset import row_count as row_count
from mixquant_onnx.data.decoder import decoder_of
from mixquant_onnx.data.outputs import has_nan, run_all
from mixquant_onnx.data.proxies.decoders import decoder_feeds
from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.signature import Input, model_inputs
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.outputs import Outputs, arrays_of
from mixquant_onnx.runtime.session import RuntimeFailure, Session


def usable_data(float_session: Session, original: ModelProto) -> Data | None:
    """Random inputs on which the float model runs.

    Args:
        float_session: The float model, loaded.
        original: The float model.

    Returns:
        Data of origin `noise` without NaN and with finite values in the outputs; None where none was found.
    """
    for data in chain(_of_decoder(float_session, original), synthetic(original)):
        try:
            outputs = run_all(float_session, data)
        except RuntimeFailure:
            continue
        if not has_nan(outputs) and _has_finite(outputs):
            return data
    return None


def _of_decoder(session: Session, model: ModelProto) -> list[Data]:
    """Random tokens for a decoder with a cache, from their start and behind a cache that the model made."""
    decoder = decoder_of(model, encoded=True)
    if decoder is None or not decoder.caches:
        return []
    feeds = decoder_feeds(model, decoder, session, lambda random, shape: random.integers(0, decoder.vocabulary, shape))
    return [Data(feeds=tuple(feeds), labels=None, origin="noise", name="rows of noise")] if feeds else []


def _has_finite(outputs: Outputs) -> bool:
    """Whether an output holds a finite number, or is not of floats."""
    arrays = [a for feed in outputs for a in arrays_of(feed).values()]
    floats = [a for a in arrays if np.issubdtype(a.dtype, np.floating)]
    return len(floats) < len(arrays) or not floats or any(bool(np.isfinite(a).any()) for a in floats)


SEED = 0
"""Seed of the noise, so that runs are reproducible; the value does not matter."""


def synthetic(model: ModelProto, count: int = 4) -> Iterator[Data]:
    """Random inputs of a fixed seed, for several guesses of free dimensions.

    Args:
        model: The model.
        count: Batches per guess.

    Yields:
        Data of origin `noise`; the caller takes the first on which the model runs.
    """
    inputs = model_inputs(model)
    limits = _index_limits(model)
    for free in ((1, 16), (1, 224), (1, 64), (1, 320), (1, 32), (2, 128), (1, 512), (1, 1), (1, 48)):
        random = np.random.default_rng(SEED)
        feeds = [{i.name: _generate(i, free, limits, random) for i in inputs} for _ in range(count)]
        yield Data(feeds=tuple(feeds), labels=None, origin="noise", name="rows of noise")


def _generate(
    wanted: Input, free: tuple[int, int], limits: Mapping[str, int], random: np.random.Generator
) -> FloatArray:
    """One input. The first free size is the batch, free[0]; others are free[1], channels of images 3."""
    dims = wanted.dims or ()
    shape: list[int] = []
    batches = {next((d for d in dims if not isinstance(d, int)), "")} - {""}
    for axis, size in enumerate(dims):
        if isinstance(size, int):
            shape.append(size)
        elif size in batches or (all(isinstance(d, int) for d in dims[:axis]) and axis < 2):
            shape.append(free[0])
        else:
            shape.append(3 if len(dims) == 4 and axis == 1 else free[1])
    if wanted.dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if np.issubdtype(wanted.dtype, np.integer):
        if "mask" in wanted.name.lower():
            return np.ones(shape, wanted.dtype)
        if not shape:
            return np.array(_scalar(wanted.name), wanted.dtype)
        high = limits.get(wanted.name, 2)
        return random.integers(0, max(high, 1), shape).astype(wanted.dtype)
    return random.standard_normal(shape).astype(wanted.dtype)


def _scalar(name: str) -> int:
    """Value of an integer scalar; a sampling rate must be one that the model supports."""
    return 16000 if name.lower() in ("sr", "sample_rate", "sampling_rate") else 1


def _index_limits(model: ModelProto) -> dict[str, int]:
    """For each integer input that becomes indices of a Gather: the size of the table."""
    sizes: dict[str, int] = {}
    for scope in walk(model):
        sizes.update({name: next(iter(tensor.dims), 1) for name, tensor in tensors_of(scope).items()})
    origin = {value.name: value.name for value in model.graph.input}
    limits: dict[str, int] = {}
    for scope in walk(model):
        for node in scope.body.node:
            first = node.input[0] if node.input else ""
            if first in origin and node.op_type in _KEEPS_INTEGERS:
                for output in node.output:
                    origin[output] = origin[first]
            looks_up = node.op_type in ("Gather", "GatherND") and len(node.input) > 1 and node.input[1] in origin
            if looks_up and first in sizes:
                name = origin[node.input[1]]
                limits[name] = min(limits.get(name, 1 << 31), sizes[first])
            if node.op_type == "OneHot" and first in origin:
                limits.setdefault(origin[first], 2)
    return limits


_KEEPS_INTEGERS = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"}
)
