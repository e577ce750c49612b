"""The distance between the outputs of two models, as one number."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.numerics.noise import changed_decisions, noises_of
from mixquant_onnx.numerics.outputs import Outputs, pairs_of


def relative_noise(reference: Outputs, other: Outputs) -> float:
    """Squared error over squared signal, averaged over the parts of each output and over the outputs of a model.

    Parts of an output that differ in scale have equal weight (`numerics.parts`).

    Args:
        reference: Outputs of the float model, one list per batch.
        other: Outputs of the quantized model on the same batches.

    Returns:
        The noise-to-signal ratio; 0 where the outputs are equal, infinite for NaN. Where no output is numeric, the
        share of changed decisions.
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


_LEAST_NOISE = 1e-12
"""Least noise of a row in a geometric mean: a row that is exact must not decide alone."""


def typical_noise(reference: Outputs, other: Outputs) -> float:
    """The geometric mean over batches of `relative_noise`.

    Where outputs are heavy-tailed, a few rows hold most of a sum of squares, and which rows those are is chance: of
    plans compared on some tens of rows the geometric mean finds the better one more often (docs/research/selection.md).

    Args:
        reference: Outputs of the float model, one list per batch.
        other: Outputs of the quantized model on the same batches.

    Returns:
        The noise-to-signal ratio; infinite for NaN.
    """
    each = np.array([relative_noise([one], [two]) for one, two in zip(reference, other, strict=True)])
    if not np.isfinite(each).all():
        return float("inf")
    return float(np.exp(np.mean(np.log(np.maximum(each, _LEAST_NOISE)))))
