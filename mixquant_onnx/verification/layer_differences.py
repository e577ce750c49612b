"""Values inside of two models that have the same names, compared on the same samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched, thinned
from mixquant_onnx.model.taps import with_outputs
from mixquant_onnx.numerics.noise import decibels, noise_share
from mixquant_onnx.numerics.outputs import Array, is_numbers
from mixquant_onnx.runtime.session import Session

APART_DB = 20.0
"""SQNR below which a value is called far from the float model's."""

_MOST_SAMPLES = 32
_AT_ONCE = 4
"""Most samples, and most in one batch: all values of a batch are held at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDifference:
    """One value.

    Attributes:
        name: Its name in both models.
        op: The operator that gives it in the float model.
        sqnr_db: SQNR in dB; -inf where its shape differs or one of the two is not finite.
        cosine: Cosine similarity; None where it is not defined.
    """

    name: str
    op: str
    sqnr_db: float
    cosine: float | None

    @property
    def apart(self) -> bool:
        """Whether it is far from the float model's."""
        return self.sqnr_db < APART_DB


@dataclass(kw_only=True, slots=True)
class _Sums:
    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    comparable: bool = field(default=True)

    def add(self, a: Array, b: Array) -> None:
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            self.comparable = False
            return
        x, y = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.product += float(x @ y)
        self.noise += float((x - y) @ (x - y))

    def of(self, name: str, op: str) -> LayerDifference:
        lengths = float(np.sqrt(self.signal) * np.sqrt(self.other))
        ratio = decibels(noise_share(self.noise, self.signal)) if self.comparable else -float("inf")
        cosine = self.product / lengths if self.comparable and lengths > 0 else None
        return LayerDifference(name=name, op=op, sqnr_db=ratio, cosine=cosine)


def layer_differences(first: ModelProto, second: ModelProto, data: Data) -> tuple[LayerDifference, ...]:
    """Compare every float value of the main graphs that both models have by the same name.

    Args:
        first: The float model.
        second: The other one.
        data: The samples, of which a few are used.

    Returns:
        The values in the order of the first graph.

    Raises:
        RuntimeFailure: A model does not run when these values are outputs.
    """
    makers = {name: node for node in first.graph.node for name in node.output if name and node.op_type != "Constant"}
    present = {name for node in second.graph.node for name in node.output}
    names = [name for name in makers if name in present]
    if not names:
        return ()
    sessions = [Session(with_outputs(model, names), "as_written") for model in (first, second)]
    sums = {name: _Sums() for name in names}
    for feed in thinned(batched(data, _AT_ONCE), _MOST_SAMPLES).feeds:
        for name, a, b in zip(names, *(session.run(feed, names) for session in sessions), strict=True):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and is_numbers(a) and is_numbers(b):
                sums[name].add(a, b)
            else:
                sums.pop(name, None)
    return tuple(one.of(name, makers[name].op_type) for name, one in sums.items())
