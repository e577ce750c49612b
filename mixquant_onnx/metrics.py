"""How far one array is from another. Every function refuses NaN with ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.types import FloatArray


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


def relative_noise(reference: Sequence[Sequence[Any]], other: Sequence[Sequence[Any]]) -> float:
    """Squared error over squared signal of all feeds, averaged over the float outputs of a model.

    `reference` and `other` hold the outputs of each feed in order. 0 where no output is of floats.
    """
    shares = []
    for position in range(len(reference[0]) if reference else 0):
        noise = signal = 0.0
        for a, b in ((r[position], o[position]) for r, o in zip(reference, other, strict=True)):
            if not (isinstance(a, np.ndarray) and np.issubdtype(a.dtype, np.floating)):
                continue
            if a.shape != b.shape:
                return float("inf")
            noise += float(np.sum(np.square(a.astype(np.float64) - b)))
            signal += float(np.sum(np.square(a, dtype=np.float64)))
        if signal > 0:
            shares.append(noise / signal)
    return float(np.mean(shares)) if shares else 0.0
