"""What each input of a model is likely to be, from its type, shape, name and the operators that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from mixquant_onnx.data.signature import Dims, Input, model_inputs
from mixquant_onnx.graph.scopes import walk

Kind = Literal["picture", "tokens", "mask", "positions", "zeros", "rate", "length", "state", "wave", "frames", "values"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """What `input` is. `batch`: its batch axis, None where it has none.

    picture: `channels` is their axis; the two others are height and width. tokens: ids below `limit`.
    state: the output that gives the next one is `output`.
    """

    input: Input
    kind: Kind
    batch: int | None
    channels: int = 1
    limit: int = 0
    output: str = ""


def roles_of(model: ModelProto) -> list[Role]:
    """One role for each input that the caller must give; none where an input cannot be made (sequences, strings)."""
    inputs = model_inputs(model)
    if any(i.sequence or i.dims is None or i.dtype == np.dtype(object) for i in inputs):
        return []
    limits = index_limits(model)
    first = _first_readers(model)
    states = _states(model, inputs)
    return [_role(i, limits, first.get(i.name, frozenset()), states) for i in inputs]


def _role(wanted: Input, limits: Mapping[str, int], readers: frozenset[str], states: Mapping[str, str]) -> Role:
    dims = wanted.dims or ()
    if wanted.name in states:
        return Role(input=wanted, kind="state", batch=_state_batch(dims), output=states[wanted.name])
    batch = 0 if dims and (not isinstance(dims[0], int) or dims[0] == 1) and len(dims) > 1 else None
    if wanted.dtype == np.bool_ or (wanted.dtype.kind in "iu" and wanted.dtype != np.uint8):
        return _integer_role(wanted, batch, limits)
    channels = _channels(dims)
    if channels is not None:
        return Role(input=wanted, kind="picture", batch=batch if len(dims) == 4 else None, channels=channels)
    if _is_wave(wanted, readers):
        return Role(input=wanted, kind="wave", batch=batch)
    kind: Kind = "frames" if len(dims) == 3 and wanted.dtype.kind == "f" else "values"
    return Role(input=wanted, kind=kind, batch=batch)


def _integer_role(wanted: Input, batch: int | None, limits: Mapping[str, int]) -> Role:
    name, dims = wanted.name.lower(), wanted.dims or ()
    kind: Kind = "tokens"
    if wanted.dtype == np.bool_ or "mask" in name:
        kind = "mask"
    elif "position" in name:
        kind = "positions"
    elif "token_type" in name or "segment" in name:
        kind = "zeros"
    elif not dims or dims == (1,):
        kind = "rate" if name in ("sr", "sample_rate", "sampling_rate", "rate") else "length"
    elif "length" in name or name.endswith("_len"):
        kind = "length"
    return Role(input=wanted, kind=kind, batch=batch, limit=limits.get(wanted.name, 2))


_COLOURS = (1, 3, 4)


def _channels(dims: Dims) -> int | None:
    """The axis of colours of a picture; None for what is no picture."""
    if len(dims) == 4:
        if dims[1] in _COLOURS and not (dims[1] == 1 and dims[3] in (3, 4)):
            return 1
        if dims[3] in _COLOURS:
            return 3
        return 1 if not isinstance(dims[1], int) and not any(isinstance(d, int) for d in dims[2:]) else None
    if len(dims) == 3 and all(not isinstance(d, int) or d >= 16 or d == 3 for d in dims):
        return 0 if dims[0] == 3 else (2 if dims[2] == 3 else None)
    return None


_WAVE_NAMES = ("audio", "wav", "speech", "signal", "pcm", "sound")
_WAVE_READERS = frozenset({"Conv", "STFT", "Pad", "DFT"})
_SHORTEST_WAVE = 256


def _is_wave(wanted: Input, readers: frozenset[str]) -> bool:
    """Samples in time: one long or free axis, the others 1 or the batch."""
    dims = wanted.dims or ()
    if not 1 <= len(dims) <= 3 or wanted.dtype.kind != "f":
        return False
    long = [d for d in dims[1:] or dims if d != 1]
    if len(long) != 1 or (isinstance(long[0], int) and long[0] < _SHORTEST_WAVE):
        return False
    named = any(part in wanted.name.lower() for part in _WAVE_NAMES)
    rows = len(dims) == 1 or (len(dims) == 2 and (dims[0] == 1 or not isinstance(dims[0], int)))
    return named or bool(readers & _WAVE_READERS) or (not isinstance(long[0], int) and rows)


def _state_batch(dims: Dims) -> int | None:
    free = [axis for axis, d in enumerate(dims) if not isinstance(d, int)]
    return free[0] if free else None


_KEEPS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"})


def _first_readers(model: ModelProto) -> dict[str, frozenset[str]]:
    """Operators that read each input, also through those that only move it."""
    origin = {value.name: value.name for value in model.graph.input}
    found: dict[str, set[str]] = {}
    for scope in walk(model):
        for node in scope.body.node:
            for name in node.input:
                if name in origin:
                    found.setdefault(origin[name], set()).add(node.op_type)
            if node.input and node.input[0] in origin and node.op_type in _KEEPS:
                origin.update(dict.fromkeys(node.output, origin[node.input[0]]))
    return {name: frozenset(operators) for name, operators in found.items()}


def _states(model: ModelProto, inputs: list[Input]) -> dict[str, str]:
    """Input -> output, for what a recurrent network gives out to be given in again: alike in rank, type and name."""
    outputs = {value.name: value for value in model.graph.output}
    found: dict[str, str] = {}
    for wanted in inputs:
        if wanted.dtype.kind != "f" or not wanted.dims or len(inputs) < 2:
            continue
        for name, value in outputs.items():
            alike = value.type.tensor_type.elem_type and len(value.type.tensor_type.shape.dim) == len(wanted.dims)
            if alike and name not in found.values() and _named_alike(wanted.name, name):
                found[wanted.name] = name
                break
    return found


_MARKS = ("state", "hidden", "h", "c", "hn", "cn", "h0", "c0", "cache", "past", "memory")


def _named_alike(given: str, made: str) -> bool:
    """`state` and `stateN`, `h` and `hn`, `h0` and `hn`, `past.0` and `present.0`, `in_cache0` and `out_cache0`."""
    plain = [_plain(name) for name in (given, made)]
    return plain[0] == plain[1] and (plain[0] != "" or given != made) and _marked(given)


def _plain(name: str) -> str:
    text = name.lower()
    for word in ("present", "past", "output", "input", "next", "new", "prev", "out", "in", "_", ".", "-"):
        text = text.replace(word, "")
    return text.removesuffix("n").removesuffix("0")


def _marked(name: str) -> bool:
    text = name.lower()
    return any(mark in text for mark in _MARKS if len(mark) > 2) or text in _MARKS


def index_limits(model: ModelProto) -> dict[str, int]:
    """For each integer input that ends up as indices of a Gather or a OneHot, or compared with a list of ids: how many
    different ones there are."""
    stored: dict[str, TensorProto] = {}
    for scope in walk(model):
        stored.update({tensor.name: tensor for tensor in getattr(scope.body, "initializer", ())})
        for node in scope.body.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                stored[node.output[0]] = node.attribute[0].t
    origin = {value.name: value.name for value in model.graph.input}
    limits: dict[str, int] = {}
    for scope in walk(model):
        for node in scope.body.node:
            first = node.input[0] if node.input else ""
            if first in origin and node.op_type in _KEEPS:
                origin.update(dict.fromkeys(node.output, origin[first]))
            name, limit = _looked_up(node, stored)
            if name in origin and limit:
                limits[origin[name]] = min(limits.get(origin[name], 1 << 31), limit)
    return limits


def _looked_up(node: NodeProto, stored: Mapping[str, TensorProto]) -> tuple[str, int]:
    """The input of `node` that is an index, and the number of entries that it can name."""
    if node.op_type in ("Gather", "GatherND") and len(node.input) > 1 and node.input[0] in stored:
        return node.input[1], next(iter(stored[node.input[0]].dims), 1)
    if node.op_type == "OneHot" and len(node.input) > 1 and node.input[1] in stored:
        return node.input[0], int(numpy_helper.to_array(stored[node.input[1]]).reshape(-1)[0])
    if node.op_type == "Equal" and node.input[1] in stored:
        return node.input[0], int(np.prod(stored[node.input[1]].dims)) if stored[node.input[1]].dims else 0
    return "", 0
