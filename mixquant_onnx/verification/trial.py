"""A trial for an accuracy target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One finished file that was judged.

    Attributes:
        bits: Bits for each of its quantized weights.
        nbytes: Its size, external data included.
        value: What was judged: a share, decibels, or the value of the user's metric.
        kept: Whether it met the target.
    """

    bits: float
    nbytes: int
    value: float
    kept: bool
