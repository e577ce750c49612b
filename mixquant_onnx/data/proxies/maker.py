"""The arrays of a batch, from the roles of its inputs and their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.data.proxies import pictures, signals
from mixquant_onnx.data.proxies.roles import Kind, Role
from mixquant_onnx.data.proxies.shapes import Shapes, spatial_axes
from mixquant_onnx.data.proxies.value_ranges import RANGES, USUAL
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

_SEED = 0
"""The value does not matter."""

_LONGEST_TIME = 1000
"""Number of diffusion steps (DDPM, Ho et al. 2020, arXiv 2006.11239: 1000)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """One input of one batch: the number of its first sample, and the generator of its values."""

    role: Role
    shape: tuple[int, ...]
    first: int
    random: np.random.Generator


class Maker:
    """Makes batches of proxy inputs.

    Args:
        roles: Roles of the inputs.
        shapes: Their shapes.
        length: Length of sequences where it is free.
        ranges: Names of value ranges for pictures, used in turn.
    """

    def __init__(self, roles: Sequence[Role], shapes: Shapes, length: int, ranges: Sequence[str] = USUAL) -> None:
        self.roles, self.shapes, self.length, self.ranges = roles, shapes, length, ranges
        self._pictured = [role.input.name for role in roles if role.kind == "picture"]
        self._makers: dict[Kind, Callable[[_Wanted], FloatArray]] = {
            "picture": self._pictures,
            "region": _region,
            "tokens": lambda w: signals.tokens(w.random, w.shape, w.role.limit),
            "wave": _waves,
            "frames": lambda w: signals.frames(w.random, w.shape, [isinstance(d, int) for d in w.role.dims[-2:]]),
            "values": lambda w: w.random.standard_normal(w.shape),
            "time": lambda w: w.random.integers(0, _LONGEST_TIME, w.shape),
            "mask": lambda w: np.ones(w.shape),
            "zeros": lambda w: np.zeros(w.shape),
            "state": lambda w: np.zeros(w.shape),
            "rate": lambda w: np.full(w.shape, signals.RATE),
            "length": lambda w: np.full(w.shape, self._longest()),
            "constant": lambda w: np.full(w.shape, w.role.value),
            "side": lambda w: np.full(w.shape, self._side()),
            "positions": lambda w: np.broadcast_to(np.arange(w.shape[-1]), w.shape),
        }

    @property
    def rows(self) -> int:
        """Samples per batch: the batch size that most inputs have."""
        sizes = [self.shapes[r.input.name][r.batch] for r in self.roles if r.batch is not None]
        return max(sizes, key=sizes.count, default=1)

    def in_ranges(self, ranges: Sequence[str]) -> Maker:
        """The same maker with other value ranges for pictures."""
        return Maker(self.roles, self.shapes, self.length, ranges)

    def of_one_row(self) -> Maker:
        """The same maker with one sample per batch, where the batch size is free."""
        free = {r.input.name: r.batch for r in self.roles if r.batch is not None and isinstance(r.dims[r.batch], str)}
        shapes = {n: tuple(1 if a == free.get(n) else d for a, d in enumerate(s)) for n, s in self.shapes.items()}
        return Maker(self.roles, shapes, self.length, self.ranges)

    def feed(self, first: int) -> Feed:
        """Make one batch.

        Args:
            first: Number of its first sample; equal numbers give equal batches.

        Returns:
            Arrays by name of the input.
        """
        random = np.random.default_rng((_SEED, first))
        made = {}
        for role in self.roles:
            wanted = _Wanted(role=role, shape=self.shapes[role.input.name], first=first, random=random)
            made[role.input.name] = np.array(self._makers[role.kind](wanted), role.input.dtype, order="C")
        return made

    def _longest(self) -> int:
        """Length of the sequence or waveform that a length input refers to."""
        waves = [self.shapes[r.input.name][-1] for r in self.roles if r.kind == "wave"]
        return waves[0] if waves else self.length

    def _side(self) -> int:
        """Side of the pictures, in pixels."""
        sides = [self.shapes[r.input.name][spatial_axes(r)[0]] for r in self.roles if r.kind in ("picture", "region")]
        return sides[0] if sides else 224

    def _pictures(self, wanted: _Wanted) -> FloatArray:
        """Pictures for one input; inputs of the same batch get different pictures."""
        role, shape = wanted.role, wanted.shape
        height, width = (shape[axis] for axis in spatial_axes(role))
        colours = shape[role.channels]
        lettered = pictures.reads_characters(height, width, colours)
        made = []
        for row in range(wanted.first, wanted.first + (shape[0] if len(shape) == 4 else 1)):
            number = row + self._pictured.index(role.input.name)
            draw = lettered and row % 2
            pixels = (
                pictures.characters(wanted.random, height, width)
                if draw
                else pictures.photograph(number, height, width)
            )
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


def _region(wanted: _Wanted) -> FloatArray:
    """A mask that is 1 in the middle, as for inpainting."""
    made = np.zeros(wanted.shape)
    inside: list[slice] = [slice(None)] * made.ndim
    for axis in spatial_axes(wanted.role):
        inside[axis] = slice(made.shape[axis] // 4, -(-3 * made.shape[axis] // 4))
    made[tuple(inside)] = 1
    return made


def _waves(wanted: _Wanted) -> FloatArray:
    shape = wanted.shape
    rows = shape[0] if wanted.role.batch == 0 else 1
    samples = math.prod(shape) // rows
    made = [signals.wave(wanted.random, wanted.first + row, samples) for row in range(rows)]
    scale = 1 if wanted.role.input.dtype.kind == "f" else np.iinfo(wanted.role.input.dtype).max
    return np.stack(made).reshape(shape) * np.float32(scale)
