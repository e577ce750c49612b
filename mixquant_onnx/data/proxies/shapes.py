"""The shape of each input: free dimensions of one name are alike, the others have sizes of real use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from mixquant_onnx.data.proxies.roles import Role

Shapes = Mapping[str, tuple[int, ...]]
"""By the name of the input."""


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

_PICTURE_KEYS = ("imgsz", "image_size", "img_size", "input_size", "input_shape")
_LENGTH_KEYS = ("max_length", "max_seq_length", "max_seq_len", "sequence_length", "seq_len")
"""Metadata in which exporters write the sizes that a model was made for, such as Ultralytics' imgsz = [640, 640]."""


def sizes_of(model: ModelProto) -> tuple[Sizes, ...]:
    """SIZES, behind what the model's own metadata tells."""
    told = {p.key.lower(): [int(n) for n in re.findall(r"\d+", p.value)] for p in model.metadata_props}
    sides = next((told[key][-2:] for key in _PICTURE_KEYS if told.get(key)), [])
    length = next((told[key][0] for key in _LENGTH_KEYS if told.get(key)), 0)
    first = SIZES[0]
    if sides and all(16 <= side <= _LARGEST for side in sides):
        first = replace(first, picture=(sides[0], sides[-1]))
    if 1 <= length <= _LARGEST:
        first = replace(first, length=length)
    return SIZES if first == SIZES[0] else (first, *SIZES)


def told_sizes(numbers: Iterable[int]) -> tuple[Sizes, ...]:
    """SIZES with other sides, and with the lengths that are among the `numbers` of a model: tried where SIZES do not
    agree with what it tells."""
    lengths = [n for n in numbers if 1 < n <= _LARGEST][:_MOST_TOLD] or [SIZES[0].length]
    samples = [n for n in numbers if _SHORTEST <= n <= _LONGEST][:_MOST_TOLD] or [SIZES[0].samples]
    made = []
    for number in range(max(len(_SIDES), len(lengths), len(samples))):
        side, length, wave = (c[number % len(c)] for c in (_SIDES, lengths, samples))
        made.append(Sizes(picture=(side, side), length=length, samples=wave, chunk=wave))
    return tuple(made)


_SIDES = (28, 96, 112, 128, 160, 192, 240, 288, 299, 384, 416, 448, 608)
_MOST_TOLD = 24
_SHORTEST, _LONGEST = 256, 480_000
"""Samples of a wave."""

_LARGEST = 2048
"""A side or a length beyond which what metadata tells is not tried."""

_MOST_VALUES = 1 << 24
"""Of one feed with free dimensions: more are not even made."""


def readings(roles: Sequence[Role], sizes: Sizes, batch: int) -> Iterator[Shapes]:
    """What may be meant, the likeliest first: dimensions of one name alike or not, caches empty or of one entry."""
    seen: list[Shapes] = []
    free = any(not isinstance(d, int) for role in roles for d in role.dims)
    for alike in (True, False):
        for past in (0, 1):
            shapes = _shapes(roles, sizes, batch, alike, past)
            small = not free or sum(map(math.prod, shapes.values())) <= _MOST_VALUES
            if small and shapes not in seen:
                seen.append(shapes)
                yield shapes


def _shapes(roles: Sequence[Role], sizes: Sizes, batch: int, alike: bool, past: int) -> Shapes:
    """Names are given their sizes by the first input that has them, those of batches before others."""
    streamed = any(role.kind == "state" for role in roles)
    named: dict[str, int] = {}
    for role in roles:
        size = 0 if role.batch is None else role.dims[role.batch]
        if isinstance(size, str):
            named[size] = batch
    made = {}
    for role in roles:
        shape = []
        for axis, size in enumerate(role.dims):
            if isinstance(size, int):
                shape.append(size)
                continue
            own = batch if axis == role.batch else _size(role, axis, sizes, streamed, past)
            known = named.setdefault(size, own) if size and alike else own
            shape.append(known)
        made[role.input.name] = tuple(shape)
    return made


def _size(role: Role, axis: int, sizes: Sizes, streamed: bool, past: int) -> int:
    if role.kind in ("picture", "region"):
        return _side(role, axis, sizes)
    if role.kind == "wave":
        return sizes.chunk if streamed else sizes.samples
    if role.kind == "state":
        return past if len(role.dims) == 4 else 1
    return sizes.length


def spatial_axes(role: Role) -> tuple[int, int]:
    """Those of height and width of a picture."""
    first, second = (a for a in range(len(role.dims)) if a not in (role.channels, 0 if len(role.dims) == 4 else -1))
    return first, second


def _side(role: Role, axis: int, sizes: Sizes) -> int:
    """Of a picture whose side along `axis` is free: as the other side, or much more where that is a line's."""
    if axis == role.channels:
        return 3
    if axis not in spatial_axes(role):
        return 1
    high, wide = spatial_axes(role)
    other = role.dims[high if axis == wide else wide]
    if not isinstance(other, int):
        return sizes.picture[axis == wide]
    return other if other > _LINE else math.ceil(other * _LINE_RATIO / 32) * 32


_LINE = 64
"""Height up to which a picture of free width is taken for a line of text."""

_LINE_RATIO = 20 / 3
"""Width of such a line over its height."""
