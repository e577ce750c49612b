"""The shape of each input: free dimensions of one name have one size, the others get typical sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from mixquant_onnx.data.proxies.roles import Role

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by name of the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes for free dimensions.

    Attributes:
        picture: Height and width of pictures, in pixels.
        length: Length of sequences.
        samples: Samples of waveforms.
        chunk: Samples of waveforms where a state is passed on.
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
"""Tried in order, the most common first: sides of classifiers (224), text lines (48 x 320, 32 x 320) and detectors
(320, 640), and one second of sound at 16 kHz.
"""

_PICTURE_KEYS = ("imgsz", "image_size", "img_size", "input_size", "input_shape")
_LENGTH_KEYS = ("max_length", "max_seq_length", "max_seq_len", "sequence_length", "seq_len")
"""Metadata keys in which exporters write the sizes that a model was made for, such as Ultralytics' imgsz = [640, 640].
"""


def sizes_of(model: ModelProto) -> tuple[Sizes, ...]:
    """Guesses for free dimensions: those in the model's metadata, then SIZES.

    Args:
        model: The model.

    Returns:
        Sizes in the order in which to try them.
    """
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
    """Guesses for free dimensions from sizes that the model declares, for when SIZES contradict them.

    Args:
        numbers: Sizes found in the model (`Agreement.numbers`).

    Returns:
        Other sides of pictures, and lengths that are among `numbers`.
    """
    lengths = [n for n in numbers if 1 < n <= _LARGEST][:_MOST_TOLD] or [SIZES[0].length]
    samples = [n for n in numbers if _SHORTEST <= n <= _LONGEST][:_MOST_TOLD] or [SIZES[0].samples]
    made = []
    for number in range(max(len(_SIDES), len(lengths), len(samples))):
        side, length, wave = (c[number % len(c)] for c in (_SIDES, lengths, samples))
        made.append(Sizes(picture=(side, side), length=length, samples=wave, chunk=wave))
    return tuple(made)


_SIDES = (28, 96, 112, 128, 160, 192, 240, 288, 299, 384, 416, 448, 608)
"""Further usual sides of pictures, in pixels."""
_MOST_TOLD = 24
"""Most lengths that are tried; a bound on time."""
_SHORTEST, _LONGEST = 256, 480_000
"""Fewest and most samples of a waveform (16 ms and 30 s at 16 kHz)."""

_LARGEST = 2048
"""Largest side or length in metadata that is tried; a bound on time."""

_MOST_VALUES = 1 << 24
"""Most values of a batch with free dimensions; larger ones are not generated. A bound on memory."""


def readings(roles: Sequence[Role], sizes: Sizes, batch: int) -> Iterator[Shapes]:
    """Possible shapes of the inputs, the likeliest first.

    Args:
        roles: Roles of the inputs.
        sizes: Sizes for free dimensions.
        batch: Batch size where it is free.

    Yields:
        Shapes with equal or independent sizes for dimensions of one name, and with caches of no or one entry.
    """
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
    """Shapes of all inputs; a name gets its size from the first input that has it, batch axes before others."""
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
    """Axes of height and width of a picture."""
    first, second = (a for a in range(len(role.dims)) if a not in (role.channels, 0 if len(role.dims) == 4 else -1))
    return first, second


def _side(role: Role, axis: int, sizes: Sizes) -> int:
    """Size of a free axis of a picture: as the other side, or much more where that is the height of a line of text."""
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
"""Height in pixels up to which a picture of free width is taken for a line of text."""

_LINE_RATIO = 20 / 3
"""Width of such a line over its height (320 x 48, as in PP-OCR)."""
