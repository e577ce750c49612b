"""How far the outputs of one model are from those of another, as one number."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.numerics.noise import changed_decisions, noises_of
from mixquant_onnx.numerics.outputs import Outputs, pairs_of


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
