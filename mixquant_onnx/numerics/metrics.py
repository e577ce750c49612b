"""How far one array is from another. Every function refuses NaN with ValueError."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.noise import changed_decisions, noises_of
from mixquant_onnx.numerics.outputs import Outputs, pairs_of


def _pair(reference: FloatArray, other: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (reference, other))
    if a.size != b.size:
        raise ValueError(f"sizes differ: {reference.shape} and {other.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("NaN in what is compared")
    same = np.isinf(a) & (a == b)
    return np.where(same, 0.0, a), np.where(same, 0.0, b)


def sqnr_db(reference: FloatArray, other: FloatArray) -> float:
    """10 log10(sum reference^2 / sum (reference - other)^2); infinite where the two are equal."""
    a, b = _pair(reference, other)
    noise = float(np.sum((a - b) ** 2))
    signal = float(np.sum(a**2))
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def cosine(reference: FloatArray, other: FloatArray) -> float:
    """Cosine of the angle between the two; 1 where both are zero."""
    a, b = _pair(reference, other)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(not a.any() and not b.any())


def top1_agreement(reference: FloatArray, other: FloatArray) -> float:
    """Share of rows [N, classes] whose largest entry is at the same place."""
    _pair(reference, other)
    return float(np.mean(reference.argmax(-1) == other.argmax(-1)))


def relative_noise(reference: Outputs, other: Outputs) -> float:
    """Squared error over squared signal, averaged over the parts of each output and over the outputs of a model.

    `reference` and `other` hold the outputs of each feed in order. Parts of an output whose scales differ count alike
    (`numerics.parts`). Where no output is of numbers, the share of changed decisions; infinite for NaN.
    """
    numbers, decisions = [], []
    for pair in pairs_of(reference, other):
        if pair.numbers:
            parts = [n for n in noises_of(pair) if n.signal > 0]
            if parts:
                numbers.append(float(np.mean([n.share for n in parts])))
        else:
            same, total = changed_decisions(pair)
            decisions.append(1 - sum(same) / max(sum(total), 1))
    return float(np.mean(numbers or decisions or [0.0]))
