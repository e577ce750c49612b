"""Power of an output and of its error, part by part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.numerics.outputs import Array, Pair
from mixquant_onnx.numerics.parts import Slices, parts_of


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
    parts = parts_of(pair.reference)
    return tuple(_noise(pair, part) for part in parts)


def _noise(pair: Pair, part: Slices) -> PartNoise:
    signal = noise = largest = 0.0
    for a, b in zip(pair.reference, pair.other, strict=True):
        power = float(np.sum(np.square(_finite(part.of(a)))))
        signal += power
        if b is None or a.shape != b.shape:
            noise += power if power > 0 else 1.0
            continue
        change = difference(part.of(a), part.of(b))
        noise += float(np.sum(np.square(change)))
        largest = max(largest, float(np.abs(change).max(initial=0.0)))
    return PartNoise(part=part, signal=signal, noise=noise, largest=largest)


def _finite(array: Array) -> Array:
    x = array.astype(np.float64)
    return x if np.isfinite(x).all() else np.where(np.isfinite(x), x, 0.0)


def difference(reference: Array, other: Array) -> Array:
    """`other` - `reference` in float64: 0 where both are the same infinity or NaN, infinite where one of them is."""
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if np.isfinite(a).all() and np.isfinite(b).all():
        return np.subtract(b, a)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    odd = ~(np.isfinite(a) & np.isfinite(b))
    return np.where(same, 0.0, np.where(odd, np.inf, np.where(odd, 0, b) - np.where(odd, 0, a)))


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
