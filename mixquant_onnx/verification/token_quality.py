"""How near the distributions of the next token are to the float model's, over sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.numerics.distributions import divergence, log_probabilities
from mixquant_onnx.numerics.outputs import Array, Outputs
from mixquant_onnx.runtime.session import Feed
from mixquant_onnx.verification.next_tokens import TokenOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean over tokens.

    Attributes:
        value: The mean.
        error: Its standard error, by the variance between sequences; None for a single sequence.
    """

    value: float
    error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenQuality:
    """Distributions of the next token against the float model's.

    Attributes:
        kl: Kullback-Leibler divergence in nats a token.
        top1: Share of tokens at which both models name the same next one.
        perplexity: Of the tokens of the data; None where they are not what the model predicts.
        float_perplexity: The same of the float model.
        sequences: Number of sequences.
        tokens: Number of tokens that are no padding.
    """

    kl: Mean
    top1: Mean
    perplexity: Mean | None
    float_perplexity: Mean | None
    sequences: int
    tokens: int


def token_quality(found: TokenOutput, data: Data, reference: Outputs, other: Outputs) -> TokenQuality | None:
    """Compare the distributions of two models.

    Args:
        found: Where they are.
        data: The samples.
        reference: Outputs of the float model on `data`.
        other: Outputs of the other model on `data`.

    Returns:
        The quality; None where the logits of a batch are missing or have another shape, or no token is left.
    """
    rows: list[_Sequence] = []
    for feed, before, after in zip(data.feeds, reference, other, strict=True):
        own, theirs = found.logits(list(before)), found.logits(list(after))
        if own is None or theirs is None or own.shape != theirs.shape:
            return None
        rows += _sequences(found, feed, own, theirs)
    if not sum(row.tokens for row in rows):
        return None
    counts = [row.tokens for row in rows]
    known = [row.known for row in rows]
    told = any(known)
    return TokenQuality(
        kl=mean_of([row.kl for row in rows], counts),
        top1=mean_of([row.same for row in rows], counts),
        perplexity=_perplexity([row.loss for row in rows], known) if told else None,
        float_perplexity=_perplexity([row.float_loss for row in rows], known) if told else None,
        sequences=sum(count > 0 for count in counts),
        tokens=sum(counts),
    )


def mean_of(sums: Sequence[float], counts: Sequence[int]) -> Mean:
    """The mean over tokens, which depend on each other within a sequence.

    Args:
        sums: Sum over the tokens of each sequence.
        counts: Tokens of each sequence.

    Returns:
        The mean with its standard error.

    Source:
        Cochran (1977), Sampling Techniques, equation 6.4: the ratio estimator.
    """
    pairs = [(s, n) for s, n in zip(sums, counts, strict=True) if n]
    total, some = sum(n for _, n in pairs), len(pairs)
    value = float(sum(s for s, _ in pairs)) / total
    if some < 2 or not math.isfinite(value):
        return Mean(value=value, error=None)
    deviation = sum((s - value * n) ** 2 for s, n in pairs) * some / (some - 1)
    return Mean(value=value, error=math.sqrt(deviation) / total)


def _perplexity(losses: Sequence[float], counts: Sequence[int]) -> Mean:
    """The exponential of the mean loss, infinite for NaN; its error to first order."""
    loss = mean_of(losses, counts)
    value = math.exp(loss.value) if loss.value < _MOST_NATS else math.inf
    return Mean(value=value, error=None if loss.error is None or value == math.inf else value * loss.error)


_MOST_NATS = 700.0
"""The exponential of more is no float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sequence:
    """Sums over the tokens of one sequence; `known` tokens have a next one."""

    tokens: int
    kl: float
    same: int
    known: int
    loss: float
    float_loss: float


def _sequences(found: TokenOutput, feed: Feed, own: Array, theirs: Array) -> list[_Sequence]:
    """One sequence after the other: logits in float64 are large."""
    real = found.real(feed, own.shape[:-1])
    ids = np.asarray(feed[found.ids])
    return [_sequence(found, real[k], ids[k], own[k], theirs[k]) for k in range(len(own))]


def _sequence(found: TokenOutput, real: NDArray[np.bool_], ids: Array, own: Array, theirs: Array) -> _Sequence:
    kept, before, after = real.reshape(-1), *(a.reshape(-1, a.shape[-1]) for a in (own, theirs))
    same = (before.argmax(-1) == after.argmax(-1)) & ~np.isnan(after).any(-1)
    known, losses = 0, (0.0, 0.0)
    if found.predicts and len(ids) == len(kept):
        told = kept[:-1] & kept[1:]
        known = int(told.sum())
        losses = _loss(after[:-1][told], ids[1:][told]), _loss(before[:-1][told], ids[1:][told])
    return _Sequence(
        tokens=int(kept.sum()),
        kl=float(divergence(before[kept], after[kept]).sum()),
        same=int(same[kept].sum()),
        known=known,
        loss=losses[0],
        float_loss=losses[1],
    )


def _loss(logits: Array, ids: Array) -> float:
    """Sum of the negative log-probabilities of `ids`."""
    if not len(ids):
        return 0.0
    return -float(np.take_along_axis(log_probabilities(logits), ids[:, None].astype(np.int64), -1).sum())
