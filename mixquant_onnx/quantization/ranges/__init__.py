"""Quantization methods by name. A method sees rows and nothing else; add one here and it is complete.

A method module has `fit(rows, bits, symmetric) -> (scale, zero_point)`, one value a row [N] with the scale
as stored, and `errors(rows, bits, symmetric) -> [sum of squared errors at each width]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.errors import OptionError
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.quantization.ranges import hqq, lattice, minmax, mse


class Method(Protocol):
    def fit(self, rows: NDArray[np.float32], bits: int, symmetric: bool) -> tuple[FloatArray, Codes]: ...

    def errors(self, rows: NDArray[np.float32], bits: Sequence[int], symmetric: bool) -> list[float]: ...


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "asymmetric": minmax,
    "mse": mse,
    "brecq": mse,
    "hqq": hqq,
    "gptq": mse,
    "adaround": mse,
}

ESTIMATES: dict[str, Callable[[NDArray[np.float32], Sequence[int], bool], list[float]]] = dict.fromkeys(
    ("mse", "gptq", "adaround", "brecq"), mse.estimated_errors
)
"""Quicker stand-ins for `errors` of slow methods, good enough to share out a budget."""


def method(name: str) -> Method:
    """Raises OptionError for an unknown name."""
    if name not in METHODS:
        raise OptionError(f"method '{name}' is not known; choose from {', '.join(METHODS)}")
    return METHODS[name]


def fit(name: str, rows: NDArray[np.float32], bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """Scale (as stored) and zero point of each row [N, M] by the method `name`; for rows on a grid those of the grid,
    if their error is no larger: rounding of scales may favour the method."""
    own, exact = method(name).fit(rows, bits, symmetric), lattice.fit(rows, bits, symmetric)
    if exact is None or lattice.error(rows, bits, exact) > lattice.error(rows, bits, own):
        return own
    return exact


def errors(
    name: str, rows: NDArray[np.float32], bits: Sequence[int], symmetric: bool, estimate: bool = False
) -> list[float]:
    """Sum of squared errors of `fit` at each of `bits`; with `estimate`, about that for slow methods."""
    known = method(name).errors
    found = (ESTIMATES.get(name, known) if estimate else known)(rows, bits, symmetric)
    exact = [lattice.fit(rows, b, symmetric) for b in bits]
    return [e if f is None else min(e, lattice.error(rows, b, f)) for b, e, f in zip(bits, found, exact, strict=True)]
