"""Feeds for a model out of the roles of its inputs, in sizes of real use; the first sizes that run are taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.proxies import pictures, signals
from mixquant_onnx.data.proxies.roles import Kind, Role, roles_of
from mixquant_onnx.data.proxies.value_ranges import RANGES, USUAL, ranges_of
from mixquant_onnx.runtime import Feed, RuntimeFailure, Session
from mixquant_onnx.types import FloatArray

ROWS = 48
"""Rows that are made: as many as MobileNetV2 and EfficientNet-Lite0 gain from (docs/accuracy.md)."""

_FEWEST = 16

_BATCH = 4

_SECONDS = 20.0
"""That all rows together may take to be made and run; a network that takes longer gets fewer rows."""

_MOST_VALUES = 1 << 26
"""Values of all rows together, at most."""

_SEED = 0

_TRIED = 3
"""Pictures that are run to find out in which range they are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """For free dimensions: height and width of pictures, length of sequences, samples of waves.

    `chunk`: samples of waves where a state is carried on.
    """

    picture: tuple[int, int]
    length: int
    samples: int
    chunk: int


SIZES = (
    Sizes(picture=(224, 224), length=64, samples=16000, chunk=576),
    Sizes(picture=(48, 320), length=32, samples=8000, chunk=512),
    Sizes(picture=(32, 320), length=128, samples=32000, chunk=1536),
    Sizes(picture=(320, 320), length=16, samples=4096, chunk=480),
    Sizes(picture=(256, 256), length=256, samples=2048, chunk=160),
    Sizes(picture=(640, 640), length=8, samples=1536, chunk=4096),
    Sizes(picture=(64, 64), length=512, samples=576, chunk=16000),
    Sizes(picture=(512, 512), length=4, samples=512, chunk=8000),
    Sizes(picture=(32, 32), length=1, samples=48000, chunk=1024),
)
"""Tried in turn."""

_NAMES: dict[Kind, str] = {
    "picture": "proxy photographs",
    "tokens": "proxy texts",
    "wave": "proxy sounds",
}


def proxy_data(model: ModelProto, session: Session) -> Data | None:
    """Rows of the kind that `model` reads, on which `session`, of that model, runs and gives no NaN.

    None where the kind of an input is not known, or nothing that was tried runs.
    """
    roles = roles_of(model)
    if not roles or all(role.kind in ("values", "length", "rate", "mask") for role in roles):
        return None
    for sizes in SIZES:
        for batch in (_BATCH, 1):
            if batch > 1 and not all(_may_be_many(role) for role in roles):
                continue
            made = _Maker(roles, sizes, batch)
            seconds = _runs(session, made)
            if seconds is None:
                continue
            made = _in_range(made, model)
            return _data(made, session, _rows(made, seconds))
        if not any(_free(role) for role in roles):
            break
    return None


def _rows(made: _Maker, seconds: float) -> int:
    most = int(_SECONDS / max(seconds / made.batch, 1e-6))
    values = sum(a.size for a in made.feed(0).values()) // made.batch
    return max(_FEWEST, min(ROWS, most, _MOST_VALUES // max(values, 1)))


def _free(role: Role) -> bool:
    return any(not isinstance(d, int) for d in role.input.dims or ())


def _may_be_many(role: Role) -> bool:
    """Whether several rows may go into one feed: where the batch is free, or all rows share the input."""
    dims = role.input.dims or ()
    if role.batch is None:
        return role.kind in ("rate", "positions")
    return not isinstance(dims[role.batch], int)


def _runs(session: Session, made: _Maker) -> float | None:
    """Seconds that a feed takes to be made and run; None where it does not run, or gives NaN."""
    started = time.perf_counter()
    try:
        outputs = session.run(made.feed(0))
    except RuntimeFailure:
        return None
    floats = [a for a in outputs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    return None if any(np.isnan(a).any() for a in floats) else time.perf_counter() - started


def _in_range(made: _Maker, model: ModelProto) -> _Maker:
    """With the ranges in which the pictures are wanted."""
    role = next((r for r in made.roles if r.kind == "picture" and r.input.dtype.kind == "f"), None)
    if role is None:
        return made

    def feeds_in(name: str) -> list[Feed]:
        few = replace_ranges(made, (name,))
        return [few.feed(k * made.batch * 3) for k in range(_TRIED)]

    return replace_ranges(made, ranges_of(model, role.input.name, feeds_in))


def _data(made: _Maker, session: Session, rows: int) -> Data:
    feeds: list[Feed] = []
    state: dict[str, FloatArray] = {}
    recurrent = [role for role in made.roles if role.kind == "state"]
    for number in range(-(-rows // made.batch)):
        feed = dict(made.feed(number * made.batch))
        feed.update(state)
        feeds.append(feed)
        if recurrent:
            outputs = dict(zip(session.outputs, session.run(feed), strict=True))
            fits = all(outputs[r.output].shape == feed[r.input.name].shape for r in recurrent)
            again = (number + 1) % _RESTART == 0
            state = {} if again or not fits else {r.input.name: outputs[r.output] for r in recurrent}
    kind = next((r.kind for r in made.roles if r.kind in _NAMES), None)
    name = _NAMES.get(kind, "proxy inputs") if kind else "proxy inputs"
    return Data(feeds=tuple(feeds), labels=None, origin="proxy", name=name)


_RESTART = 8
"""Feeds after which a recurrent state is zero again."""


class _Maker:
    """Makes the feed of the rows from a given one on."""

    def __init__(self, roles: Sequence[Role], sizes: Sizes, batch: int, ranges: Sequence[str] = USUAL) -> None:
        self.roles, self.sizes, self.batch, self.ranges = roles, sizes, batch, ranges
        self._makers: dict[Kind, Callable[[Role, int, np.random.Generator], FloatArray]] = {
            "picture": self._pictures,
            "tokens": self._tokens,
            "wave": self._waves,
            "frames": lambda role, _, random: signals.frames(random, self._shape(role)),
            "values": lambda role, _, random: random.standard_normal(self._shape(role)),
            "mask": lambda role, *_: np.ones(self._shape(role)),
            "zeros": lambda role, *_: np.zeros(self._shape(role)),
            "state": lambda role, *_: np.zeros(self._shape(role)),
            "rate": lambda role, *_: np.full(self._shape(role), signals.RATE),
            "length": lambda role, *_: np.full(self._shape(role), self.sizes.length),
            "positions": lambda role, *_: np.broadcast_to(np.arange(self._shape(role)[-1]), self._shape(role)),
        }

    def feed(self, first: int) -> Feed:
        random = np.random.default_rng((_SEED, first))
        made = {}
        for role in self.roles:
            array = self._makers[role.kind](role, first, random)
            made[role.input.name] = np.ascontiguousarray(array.astype(role.input.dtype))
        return made

    def _shape(self, role: Role) -> tuple[int, ...]:
        """Free dimensions filled: the batch, then height and width, samples or a length."""
        dims = role.input.dims or ()
        known = [d for d in dims if isinstance(d, int)]
        made: list[int] = []
        for axis, size in enumerate(dims):
            if isinstance(size, int):
                made.append(size)
            elif axis == role.batch:
                made.append(self.batch)
            elif role.kind == "picture":
                made.append(self._side(role, axis))
            elif role.kind == "wave":
                streamed = any(r.kind == "state" for r in self.roles)
                made.append(self.sizes.chunk if streamed else self.sizes.samples)
            elif role.kind == "state":
                made.append(self.batch if role.batch is None else 1)
            else:
                made.append(self.sizes.length if len(known) < len(dims) else 1)
        return tuple(made)

    def _side(self, role: Role, axis: int) -> int:
        """Of a picture whose side along `axis` is free: as the other side, or much more where that is a line's."""
        if axis == role.channels:
            return 3
        dims = role.input.dims or ()
        spatial = [a for a in range(len(dims)) if a not in (role.channels, 0 if len(dims) == 4 else -1)]
        other = dims[spatial[0] if axis == spatial[1] else spatial[1]]
        if not isinstance(other, int):
            return self.sizes.picture[spatial.index(axis)]
        return other if other > _LINE else math.ceil(other * _LINE_RATIO / 32) * 32

    def _pictures(self, role: Role, first: int, random: np.random.Generator) -> FloatArray:
        shape = self._shape(role)
        spatial = [axis for axis in range(len(shape)) if axis not in (role.channels, 0 if len(shape) == 4 else -1)]
        height, width = (shape[axis] for axis in spatial)
        colours = shape[role.channels]
        rows = shape[0] if len(shape) == 4 else 1
        lettered = pictures.reads_characters(height, width, colours)
        made = []
        for row in range(first, first + rows):
            draw = lettered and row % 2
            pixels = pictures.characters(random, height, width) if draw else pictures.photograph(row, height, width)
            if colours == 1:
                pixels = pixels.mean(axis=2, keepdims=True)
            elif colours == 4:
                pixels = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=2)
            made.append(self._scaled(pixels, role, row))
        stacked = np.stack(made)
        stacked = stacked if role.channels in (2, 3) else stacked.transpose(0, 3, 1, 2)
        return np.asarray(stacked.reshape(shape))

    def _scaled(self, pixels: FloatArray, role: Role, row: int) -> FloatArray:
        if role.input.dtype.kind != "f":
            return np.asarray(np.rint(pixels * 255))
        return np.asarray(RANGES[self.ranges[row // 2 % len(self.ranges)]](pixels))

    def _tokens(self, role: Role, first: int, random: np.random.Generator) -> FloatArray:
        return signals.tokens(random, self._shape(role), role.limit)

    def _waves(self, role: Role, first: int, random: np.random.Generator) -> FloatArray:
        shape = self._shape(role)
        rows = shape[0] if role.batch == 0 else 1
        samples = math.prod(shape) // rows
        return np.stack([signals.wave(random, first + row, samples) for row in range(rows)]).reshape(shape)


_LINE = 64
"""Height up to which a picture of free width is taken for a line of text."""

_LINE_RATIO = 20 / 3
"""Width of such a line over its height."""


def replace_ranges(made: _Maker, ranges: Sequence[str]) -> _Maker:
    return _Maker(made.roles, made.sizes, made.batch, ranges)
