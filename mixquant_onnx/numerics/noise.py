"""Power of an output and of its error, part by part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.numerics.outputs import Array, Pair
from mixquant_onnx.numerics.parts import Slices, finite_or_zero, parts_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartNoise:
    """`signal` and `noise`: sums of squares over all feeds. `largest`: the largest change of one value."""

    part: Slices
    signal: float
    noise: float
    largest: float

    @property
    def share(self) -> float:
        """Noise over signal; infinite where only the signal is zero."""
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise); infinite where there is no noise."""
        return decibels(self.share)


def decibels(share: float) -> float:
    """What noise of this share of the signal is in dB."""
    return math.inf if share == 0 else -10 * math.log10(share) if math.isfinite(share) else -math.inf


def noises_of(pair: Pair) -> tuple[PartNoise, ...]:
    """The noise of each part of an output of numbers.

    Equal infinities cancel; infinite against finite, or NaN where the reference has none, is infinite noise. A feed in
    which the shape differs counts as lost: noise as large as the signal.
    """
    return tuple(_noise(pair, part) for part in parts_of(pair.reference))


def _noise(pair: Pair, part: Slices) -> PartNoise:
    signal = noise = largest = 0.0
    for a, b in zip(pair.reference, pair.other, strict=True):
        mine = part.of(a)
        power = _power(mine)
        power = power if math.isfinite(power) else _power(finite_or_zero(mine))
        signal += power
        if b is None or a.shape != b.shape:
            noise += power if power > 0 else 1.0
            continue
        change = difference(mine, part.of(b))
        noise += _power(change)
        largest = max(largest, float(change.max(initial=0.0)), -float(change.min(initial=0.0)))
    return PartNoise(part=part, signal=signal, noise=noise, largest=largest)


def _power(array: Array) -> float:
    flat = array.astype(np.float64, copy=False).reshape(-1)
    return float(np.dot(flat, flat))


def difference(reference: Array, other: Array) -> Array:
    """`other` - `reference` in float64: 0 where both are the same infinity or NaN, infinite where one of them is."""
    with np.errstate(invalid="ignore"):
        change = np.subtract(other, reference, dtype=np.float64)
    if math.isfinite(float(change.min(initial=0.0)) + float(change.max(initial=0.0))):
        return change
    same = (reference == other) | (np.isnan(reference) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isfinite(change), change, np.inf))


def changed_decisions(pair: Pair) -> tuple[list[int], list[int]]:
    """(same, all) values of an output of integers, truth values or strings in each feed.

    A feed in which the shape differs has none the same.
    """
    same, total = [], []
    for a, b in zip(pair.reference, pair.other, strict=True):
        fits = b is not None and a.shape == b.shape
        same.append(int(np.sum(a == b)) if fits else 0)
        total.append(max(int(a.size), 0 if fits else 1))
    return same, total
