"""Distributions given by logits: their logarithms, and the divergence between two."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.outputs import Array


def log_probabilities(logits: Array) -> NDArray[np.float64]:
    """Logarithms of the softmax over the last axis.

    Args:
        logits: [..., classes]; minus infinity stands for a class that cannot be.

    Returns:
        [..., classes] in float64; NaN where a row holds NaN, or is minus infinity throughout.
    """
    exact = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shifted = exact - exact.max(-1, keepdims=True)
        made: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return made


def divergence(reference: Array, other: Array) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of two softmax distributions over the last axis.

    Args:
        reference: Logits of the distribution that is right, [..., classes].
        other: Logits of the one that stands for it, [..., classes].

    Returns:
        [...] in nats, at least 0; exactly 0 where the logits are equal. Infinite where `other` holds NaN, or rules out
        a class that can be.

    Source:
        Kullback and Leibler (1951), On Information and Sufficiency, equation 2.4.
    """
    before, after = log_probabilities(reference), log_probabilities(other)
    share = np.exp(before)
    with np.errstate(invalid="ignore"):
        apart = np.where(share == 0, 0.0, share * (before - after))
    found: NDArray[Any] = np.maximum(apart.sum(-1), 0.0)
    return np.where(np.isnan(found), np.inf, found)
