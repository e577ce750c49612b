"""The likely meaning of each input of a model, from its type, shape, name and the operators that read it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.proxies.readers import colours_of, first_readers, index_limits
from mixquant_onnx.model.signature import Dims, Input, model_inputs

Kind = Literal[
    "picture", "region", "tokens", "mask", "positions", "zeros", "constant", "side", "time", "rate", "length", "state",
    "wave", "frames", "values",
]  # fmt: skip

KNOWN: frozenset[Kind] = frozenset({"picture", "tokens", "wave", "frames", "state"})
"""Kinds of which a model must read at least one for proxies to be more informative than noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """The meaning of an input.

    Attributes:
        input: The input.
        kind: What it holds.
        batch: Its batch axis; None where it has none.
        channels: Of a picture or region, the axis of its channels; the two others are height and width.
        limit: Of tokens, the number of valid ids.
        output: Of a state, the output that gives the next one.
        value: Of a constant, its value.
    """

    input: Input
    kind: Kind
    batch: int | None
    channels: int = 1
    limit: int = 0
    output: str = ""
    value: float = 1.0

    @property
    def dims(self) -> Dims:
        """Sizes of the input; free ones are names."""
        return self.input.dims or ()


def roles_of(model: ModelProto) -> list[Role]:
    """The roles of a model's inputs.

    Args:
        model: The model.

    Returns:
        One role for each input that the caller must give; empty where an input is not supported (sequences, strings).
    """
    inputs = model_inputs(model)
    if any(i.sequence or i.dims is None or i.dtype == np.dtype(object) for i in inputs):
        return []
    limits, colours = index_limits(model), colours_of(model)
    inputs = [_with_colours(i, colours.get(i.name)) for i in inputs]
    first = first_readers(model)
    states = states_of(model, inputs)
    batches = {i.dims[0] for i in inputs if i.dims and len(i.dims) > 1 and not isinstance(i.dims[0], int)}
    roles = [_role(i, limits, first.get(i.name, frozenset()), states) for i in inputs]
    return [_one_each_row(role, batches) for role in roles]


def _one_each_row(role: Role, batches: Set[int | str]) -> Role:
    """A single number per sample has a batch axis too: its only one, if it is named like those of other inputs."""
    alone = len(role.dims) == 1 and role.dims[0] in batches and role.kind not in ("wave", "state")
    return replace(role, batch=0) if alone else role


def _with_colours(wanted: Input, colours: int | None) -> Input:
    """A picture with a free number of channels has as many as its first convolution reads."""
    dims = wanted.dims or ()
    if colours is None or len(dims) != 4 or isinstance(dims[1], int):
        return wanted
    return replace(wanted, dims=(dims[0], colours, *dims[2:]))


def _role(wanted: Input, limits: Mapping[str, int], readers: frozenset[str], states: Mapping[str, str]) -> Role:
    name, dims = wanted.name.lower(), wanted.dims or ()
    if wanted.name in states:
        return Role(input=wanted, kind="state", batch=_state_batch(dims), output=states[wanted.name])
    batch = 0 if dims and (not isinstance(dims[0], int) or dims[0] == 1) and len(dims) > 1 else None
    if _is_wave(wanted, readers):
        return Role(input=wanted, kind="wave", batch=batch)
    channels = _channels(wanted)
    if wanted.dtype == np.bool_ or (wanted.dtype.kind in "iu" and (wanted.dtype != np.uint8 or channels is None)):
        return _integer_role(wanted, batch, limits)
    if channels is not None:
        kind: Kind = "region" if "mask" in name and dims[channels] == 1 else "picture"
        return Role(input=wanted, kind=kind, batch=0 if len(dims) == 4 else None, channels=channels)
    return _float_role(wanted, batch)


_SPECTRA = ("mel", "spec", "fbank", "filterbank", "mfcc")


def _float_role(wanted: Input, batch: int | None) -> Role:
    """Role of floats that are no pictures, waveforms or states."""
    name, dims = wanted.name.lower(), wanted.dims or ()
    if "mask" in name:
        return Role(input=wanted, kind="mask", batch=batch)
    if len(dims) < 2 or (len(dims) == 2 and dims[1] in (1, 2)):
        if name.startswith("timestep"):
            return Role(input=wanted, kind="time", batch=batch)
        if "size" in name or "shape" in name:
            return Role(input=wanted, kind="side", batch=batch)
    if len(dims) < 2 and not (dims and isinstance(dims[0], int) and dims[0] > _FEW):
        half = any(part in name for part in ("thresh", "conf", "iou", "score"))
        return Role(input=wanted, kind="constant", batch=batch, value=0.5 if half else 1.0)
    frames = len(dims) == 3 or any(part in name for part in _SPECTRA)
    return Role(input=wanted, kind="frames" if frames else "values", batch=batch)


_FEW = 4
"""Most numbers that are taken for a setting (a scale, a speed, a threshold) and not for features."""


def _integer_role(wanted: Input, batch: int | None, limits: Mapping[str, int]) -> Role:
    name, dims = wanted.name.lower(), wanted.dims or ()
    kind: Kind = "tokens"
    if wanted.dtype == np.bool_:
        kind = "zeros" if "pad" in name or name.startswith("use_cache") else "mask"
    elif "mask" in name:
        kind = "mask"
    elif "position" in name:
        kind = "positions"
    elif "token_type" in name or "segment" in name:
        kind = "zeros"
    elif len(dims) < 2 and name.startswith("timestep"):
        kind = "time"
    elif not dims or dims == (1,):
        kind = "rate" if name in ("sr", "sample_rate", "sampling_rate", "rate") else "length"
    elif "length" in name or name.endswith("_len"):
        kind = "length"
    return Role(input=wanted, kind=kind, batch=batch, limit=limits.get(wanted.name, _unknown_limit(wanted)))


def _unknown_limit(wanted: Input) -> int:
    """Number of ids where no table is known: bytes have 256 values."""
    return 256 if wanted.dtype == np.uint8 else 2


_COLOURS = (1, 3, 4)
_LATENTS = ("latent", "sample", "noise", "noisy")


def _channels(wanted: Input) -> int | None:
    """The channel axis of a picture; None where the input is not a picture."""
    name, dims = wanted.name.lower(), wanted.dims or ()
    if any(part in name for part in _SPECTRA) or (dims[1:2] == (4,) and any(part in name for part in _LATENTS)):
        return None
    if len(dims) == 4:
        if dims[1] in _COLOURS and not (dims[1] == 1 and dims[3] in (3, 4)):
            return 1
        if dims[3] in _COLOURS:
            return 3
        return 1 if not isinstance(dims[1], int) and not any(isinstance(d, int) for d in dims[2:]) else None
    if len(dims) == 3 and all(not isinstance(d, int) or d >= 16 or d == 3 for d in dims) and not _is_batch(dims[0]):
        return 0 if dims[0] == 3 else (2 if dims[2] == 3 else None)
    return None


def _is_batch(size: int | str) -> bool:
    """Whether a free dimension is named like a batch: points [batch, points, 3] are not a picture."""
    return isinstance(size, str) and (size.lower() in ("n", "b", "bs") or "batch" in size.lower())


_WAVE_NAMES = ("audio", "wav", "speech", "signal", "pcm", "sound")
_WAVE_READERS = frozenset({"Conv", "STFT", "Pad", "DFT"})
_SHORTEST_WAVE = 256


def _is_wave(wanted: Input, readers: frozenset[str]) -> bool:
    """Whether the input holds audio samples: one long or free axis, the others 1 or the batch."""
    dims = wanted.dims or ()
    named = any(part in wanted.name.lower() for part in _WAVE_NAMES)
    if not 1 <= len(dims) <= 3 or not (wanted.dtype.kind == "f" or (named and wanted.dtype == np.int16)):
        return False
    if "mask" in wanted.name.lower() or "label" in wanted.name.lower():
        return False
    long = [d for d in dims[1:] or dims if d != 1]
    if len(long) != 1 or (isinstance(long[0], int) and long[0] < _SHORTEST_WAVE):
        return False
    rows = len(dims) == 1 or (len(dims) == 2 and (dims[0] == 1 or not isinstance(dims[0], int)))
    return named or bool(readers & _WAVE_READERS) or (not isinstance(long[0], int) and rows)


def _state_batch(dims: Dims) -> int | None:
    free = [axis for axis, d in enumerate(dims) if not isinstance(d, int)]
    return free[0] if free else None


def states_of(model: ModelProto, inputs: list[Input]) -> dict[str, str]:
    """States that a model passes on from run to run: an input and an output alike in rank, type and name.

    Args:
        model: The model.
        inputs: Its inputs.

    Returns:
        The name of the output by that of the input.
    """
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
    for word in _SIDES:
        text = text.replace(word, "")
    return text.removesuffix("n").removesuffix("0")


_SIDES = (
    "past_key_values", "present", "past", "output", "input", "next", "new", "prev", "out", "in", "_", ".", "-"
)  # fmt: skip
"""Parts in which the names of the current and of the next state differ."""


def _marked(name: str) -> bool:
    text = name.lower()
    return any(mark in text for mark in _MARKS if len(mark) > 2) or text in _MARKS
