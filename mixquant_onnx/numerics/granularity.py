"""How many weights share a scale, and what the axes of a weight are. Without NumPy: `--help` imports it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from mixquant_onnx.errors import OptionError

ALL_BITS = (2, 3, 4, 5, 6, 7, 8)
"""Bit widths of weights: those that `export/encodings` can store."""

FLOAT_BITS = 32
"""Bits of a float32 weight, the baseline of compression ratios."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Granularity:
    """Granularity: one scale and zero point per tensor, per channel, or per block of N weights.

    Attributes:
        per: Which weights share a scale.
        block: Weights per block along the reduced axis; None unless `per` is "block".
    """

    per: Literal["tensor", "channel", "block"]
    block: int | None = None

    def __str__(self) -> str:
        return f"b{self.block}" if self.per == "block" else self.per

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Parse the name of a granularity, as a user or a plan writes it.

        Args:
            text: `tensor`, `channel`, `block:N` or `bN`, with N at least 2.

        Returns:
            The granularity.

        Raises:
            OptionError: `text` is none of these.
        """
        if text == "tensor":
            return cls(per="tensor")
        if text == "channel":
            return cls(per="channel")
        found = re.fullmatch(r"(?:block:|b)(\d+)", text)
        if found and int(found[1]) >= 2:
            return cls(per="block", block=int(found[1]))
        raise OptionError(f"granularity '{text}' is not known; use tensor, channel or block:N with N >= 2")


PER_CHANNEL = Granularity(per="channel")
"""The default granularity."""
AUTO_GRIDS = (PER_CHANNEL, *(Granularity(per="block", block=n) for n in (128, 64, 32, 16)), Granularity(per="tensor"))
"""Granularities that `auto` chooses from; calibrated sensitivities are measured at the first. Block sizes are powers of
two, as ONNX Runtime's MatMulNBits requires (16 at least).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightAxes:
    """The axes of a weight in order, as counts of axes: row axes, reduced axes, row axes, reduced axes.

    Reduced axes are those that the layer sums over; each combination of row axes is one output channel. Conv [O, I, kh,
    kw] is p=1 r=3; MatMul [K, N] is r=1 q=1; ConvTranspose [I, O, kh, kw] is r=1 q=1 s=2.

    Attributes:
        p: Leading row axes.
        r: Reduced axes that follow.
        q: Row axes that follow.
        s: Trailing reduced axes.
    """

    p: int = 0
    r: int = 0
    q: int = 0
    s: int = 0

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Number of values along each of the four groups of axes.

        Args:
            shape: Shape of the weight; its rank is p + r + q + s.

        Returns:
            (P, R, Q, S), the product of the sizes in each group; 1 for an empty group.
        """
        a, b, c = self.p, self.p + self.r, self.p + self.r + self.q
        return (
            math.prod(shape[:a]),
            math.prod(shape[a:b]),
            math.prod(shape[b:c]),
            math.prod(shape[c:]),
        )

    def merged(self) -> WeightAxes:
        """The layout for blocks, which run along `r` alone: the axes `s` become row axes."""
        return WeightAxes(p=self.p, r=self.r, q=self.q + self.s)
