"""The distance between the outputs of two models by which plans are compared: of distributions, or of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.numerics.distributions import divergence
from mixquant_onnx.numerics.outputs import Array, Outputs
from mixquant_onnx.runtime.session import Feed
from mixquant_onnx.verification.next_tokens import TokenOutput

_MOST_VALUES = 1 << 24
"""Most logits that are compared, to save time; of more, some tokens are drawn. 16 million take about half a second."""

_SEED = 0
"""Seed of the drawn tokens; the value does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Divergence:
    """Kullback-Leibler divergence of the next token, in nats a token.

    Attributes:
        found: Where the distributions are.
        feeds: The batches.
        reference: Outputs of the float model.
    """

    found: TokenOutput
    feeds: Sequence[Feed]
    reference: Outputs

    def mean(self, other: Outputs) -> float:
        """The mean over tokens that are no padding.

        Args:
            other: Outputs of another model on the same batches.

        Returns:
            The mean; infinite where logits are NaN, missing or of another shape, 0 where there are no tokens.
        """
        total, count = 0.0, 0
        sizes = [self._logits(outputs).size for outputs in self.reference]
        share = min(1.0, _MOST_VALUES / max(sum(sizes), 1))
        for number, (feed, before, after) in enumerate(zip(self.feeds, self.reference, other, strict=True)):
            own, theirs = self._logits(before), self.found.logits(list(after))
            if theirs is None or own.shape != theirs.shape:
                return float("inf")
            kept = _drawn(self.found.real(feed, own.shape[:-1]), share, number)
            total += float(divergence(own[kept], theirs[kept]).sum())
            count += int(kept.sum())
        return total / max(count, 1)

    def _logits(self, outputs: Sequence[Array]) -> Array:
        own = self.found.logits(list(outputs))
        assert own is not None
        return own


def _drawn(real: NDArray[np.bool_], share: float, number: int) -> NDArray[np.bool_]:
    """Some of the tokens, the same ones at every call."""
    if share >= 1:
        return real
    return np.asarray(real & (np.random.default_rng((_SEED, number)).random(real.shape) < share))
