"""The values that travel between the stages. NumPy only; nothing here knows ONNX."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.errors import OptionError, PlanError

FloatArray = NDArray[Any]
Codes = NDArray[np.uint8]
ALL_BITS = (2, 3, 4, 5, 6, 7, 8)
FLOAT_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Granularity: one scale and zero point for the tensor, for a channel, or for a block of N weights."""

    per: Literal["tensor", "channel", "block"]
    block: int | None = None

    def __str__(self) -> str:
        return f"b{self.block}" if self.per == "block" else self.per

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Read `tensor`, `channel`, `block:N` or `bN`. Raises OptionError."""
        if text == "tensor":
            return cls(per="tensor")
        if text == "channel":
            return cls(per="channel")
        found = re.fullmatch(r"(?:block:|b)(\d+)", text)
        if found and int(found[1]) >= 2:
            return cls(per="block", block=int(found[1]))
        raise OptionError(f"granularity '{text}' is not known; use tensor, channel or block:N with N >= 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How one tensor is quantized. `str()` gives a short name such as `w4.b32.minmax` that parses back."""

    bits: int
    grid: Grid
    method: str = "minmax"
    symmetric: bool = False

    def __str__(self) -> str:
        return f"w{self.bits}.{self.grid}.{self.method}" + (".sym" if self.symmetric else "")

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme that `str()` wrote. Raises PlanError."""
        found = re.fullmatch(r"w([2-8])\.(tensor|channel|b\d+)\.([a-z0-9_]+)(\.sym)?", text)
        if not found:
            raise PlanError(f"'{text}' is not a scheme; write for example w4.channel.minmax or w5.b32.minmax")
        try:
            grid = Grid.parse(found[2])
        except OptionError as error:
            raise PlanError(f"'{text}' is not a scheme: {error}") from error
        return cls(bits=int(found[1]), grid=grid, method=found[3], symmetric=bool(found[4]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The axes of a weight in order, as counts: `p` row axes, `r` reduced, `q` row axes, `s` reduced.

    Conv [O, I, kh, kw] is p=1 r=3; MatMul [K, N] is r=1 q=1; ConvTranspose [I, O, kh, kw] is r=1 q=1 s=2.
    """

    p: int = 0
    r: int = 0
    q: int = 0
    s: int = 0

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """The four groups of axes of `shape`, each multiplied out."""
        a, b, c = self.p, self.p + self.r, self.p + self.r + self.q
        return (
            math.prod(shape[:a]),
            math.prod(shape[a:b]),
            math.prod(shape[b:c]),
            math.prod(shape[c:]),
        )

    def merged(self) -> Layout:
        """The layout for blocks, which run along `r` alone: the axes `s` become rows."""
        return Layout(p=self.p, r=self.r, q=self.q + self.s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One reader of a site: the operator at the end of its chain, and the input that takes the weight."""

    node: str
    op: str
    input: int
    direct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSite:
    """One stored weight tensor, however many nodes read it. `name` is unique in the model."""

    name: str
    tensor: str
    scope: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    uses: tuple[Use, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quantized:
    """Codes (logical shape, uint8) with `scale` and `zero_point` of shape [P, G, Q]; see `grid`.

    `scale` is float16 or float32, as stored. `zero_point` is uint8; of shape [1, 1, 1] when symmetric.
    """

    codes: Codes
    scale: FloatArray
    zero_point: Codes
    scheme: Scheme
    layout: Layout
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One candidate of one site. `qe` is the mean squared error, `nbytes` codes + scales + zero points."""

    scheme: Scheme
    qe: float
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteErrors:
    """All that an allocator may know of one site: its candidates and what it is judged against.

    `baseline` is the QE that QEM multiplies; `power` is the mean squared weight.
    """

    site: str
    elements: int
    power: float
    baseline: float
    cells: tuple[Cell, ...]


ErrorTable = Mapping[str, SiteErrors]


@dataclass(frozen=True, kw_only=True, slots=True)
class BitPlan:
    """{site: Scheme}, what stays float and why, and where the plan came from. JSON in and out."""

    sites: Mapping[str, Scheme]
    skipped: Mapping[str, str] = field(default_factory=dict)
    allocator: str = "qem"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "allocator": self.allocator,
            "settings": dict(self.settings),
            "sites": {name: str(scheme) for name, scheme in self.sites.items()},
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, data: Any) -> BitPlan:
        """Raises PlanError when `data` is not a plan of this format."""
        wrong = PlanError("not a plan of mixquant-onnx (format 1); write one with --plan FILE")
        if not isinstance(data, dict) or data.get("format") != 1:
            raise wrong
        parts = [data.get("sites"), data.get("skipped", {}), data.get("settings", {})]
        if not all(isinstance(part, dict) for part in parts):
            raise wrong
        qem = parts[2].get("qem", 1.0)
        if not isinstance(qem, (int, float)) or not qem > 0:
            raise PlanError(f"the plan's setting qem is {qem!r}; it must be a positive number")
        return cls(
            sites={str(name): Scheme.parse(str(text)) for name, text in parts[0].items()},
            skipped={str(k): str(v) for k, v in parts[1].items()},
            allocator=str(data.get("allocator", "qem")),
            settings=dict(parts[2]),
        )
