"""Power of an output and of its error, computed separately for each part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.numerics.outputs import Array, Pair
from mixquant_onnx.numerics.parts import Slices, finite_or_zero, parts_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PartNoise:
    """Signal and noise of one part of an output, summed over all batches.

    Attributes:
        part: The part.
        signal: Sum of squares of the reference.
        noise: Sum of squares of the error.
        largest: Largest absolute change of one value.
    """

    part: Slices
    signal: float
    noise: float
    largest: float

    @property
    def share(self) -> float:
        """Noise over signal; infinite where only the signal is zero."""
        return noise_share(self.noise, self.signal)

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise); infinite where there is no noise."""
        return decibels(self.share)


def noise_share(noise: float, signal: float) -> float:
    """Noise-to-signal ratio.

    Args:
        noise: Sum of squares of the error.
        signal: Sum of squares of the reference.

    Returns:
        `noise / signal`; 0 where there is no noise, infinite where only the signal is zero.
    """
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf


def decibels(share: float) -> float:
    """SQNR in dB of a noise-to-signal ratio.

    Args:
        share: Noise over signal, at least 0.

    Returns:
        -10 log10(share); infinite for 0, minus infinity for infinite noise.
    """
    return math.inf if share == 0 else -10 * math.log10(share) if math.isfinite(share) else -math.inf


def noises_of(pair: Pair) -> tuple[PartNoise, ...]:
    """The noise of each part of a numeric output.

    Equal infinities cancel; infinite against finite, or NaN where the reference has none, is infinite noise. A batch in
    which the shape differs counts as lost: its noise is as large as its signal.

    Args:
        pair: One output of both models.

    Returns:
        One entry for each part that `parts_of` finds in the reference.
    """
    return tuple(_noise(pair, part) for part in parts_of(pair.reference))


def _noise(pair: Pair, part: Slices) -> PartNoise:
    signal = noise = largest = 0.0
    for a, b in zip(pair.reference, pair.other, strict=True):
        mine = part.of(a)
        power = _finite_power(mine)
        signal += power
        if b is None or a.shape != b.shape:
            noise += power if power > 0 else 1.0
            continue
        change = difference(mine, part.of(b))
        noise += _power(change)
        largest = max(largest, float(change.max(initial=0.0)), -float(change.min(initial=0.0)))
    return PartNoise(part=part, signal=signal, noise=noise, largest=largest)


def sqnr_db(reference: Array, other: Array) -> float:
    """SQNR in dB of one array: 10 log10(sum reference^2 / sum (other - reference)^2).

    Args:
        reference: The float values.
        other: The values to compare, of the same shape.

    Returns:
        Infinite where the two are equal; equal infinities and NaN cancel (`difference`). Minus infinity where one of
        the two alone is not finite, or where only the reference is all zero.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {other.shape}")
    return decibels(noise_share(_power(difference(reference, other)), _finite_power(reference)))


def _finite_power(array: Array) -> float:
    """The sum of squares of the finite values."""
    power = _power(array)
    return power if math.isfinite(power) else _power(finite_or_zero(array))


def _power(array: Array) -> float:
    flat = array.astype(np.float64, copy=False).reshape(-1)
    return float(np.dot(flat, flat))


def difference(reference: Array, other: Array) -> Array:
    """`other - reference` in float64.

    Args:
        reference: The float values.
        other: The values to compare, of the same shape.

    Returns:
        The error; 0 where both are the same infinity or both NaN, infinite where only one of them is.
    """
    with np.errstate(invalid="ignore"):
        change = np.subtract(other, reference, dtype=np.float64)
    if math.isfinite(float(change.min(initial=0.0)) + float(change.max(initial=0.0))):
        return change
    same = (reference == other) | (np.isnan(reference) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isfinite(change), change, np.inf))


def changed_decisions(pair: Pair) -> tuple[list[int], list[int]]:
    """Number of equal values of an output of integers, booleans or strings.

    Args:
        pair: One output of both models.

    Returns:
        (equal, total), one number per batch. A batch in which the shape differs has no equal values.
    """
    same, total = [], []
    for a, b in zip(pair.reference, pair.other, strict=True):
        fits = b is not None and a.shape == b.shape
        same.append(int(np.sum(a == b)) if fits else 0)
        total.append(max(int(a.size), 0 if fits else 1))
    return same, total
