"""The quantization methods, one row per method.

To add one, write its range function (`ranges/`) or rounding function (`rounding/`) and add a row to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.errors import OptionError, first_line
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.ranges import hqq, lattice, minmax, mse
from mixquant_onnx.quantization.ranges.nearest import nearest_error
from mixquant_onnx.quantization.reconstruction.reconstructor import ReconstructionTask, Reconstructor
from mixquant_onnx.quantization.rounding import adaround, coordinate_descent, gptq
from mixquant_onnx.quantization.rounding.objective import Rounding

Rows = NDArray[np.float32]
RangeFunction = Callable[[Rows, int, bool], tuple[FloatArray, Codes]]
"""(rows [N, M], bits, symmetric) -> (scale as stored [N], zero point [N], or [1] when symmetric)."""

ErrorFunction = Callable[[Rows, Sequence[int], bool], list[float]]
"""(rows [N, M], widths in bits, symmetric) -> the sum of squared errors of all rows at each width."""


class Needs(Enum):
    """Information that a method requires to work as designed."""

    NOTHING = "nothing"
    """Data-free. With the moments of the inputs its rounding is bias-corrected."""

    SECOND_MOMENTS = "second moments"
    """Second moments of the layer's inputs, from calibration data."""

    TORCH = "torch"
    """Second moments, the calibration data itself, and the optional extra `reconstruct`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        ranges: Scale and zero point of each row. A calibrated method uses it only where inputs are not known (with
            them, ranges are those of `ranges/weighted_mse`).
        range_errors: The errors of `ranges`, where there is a faster way than to fit and round.
        range_estimates: Faster estimates of `range_errors`, for comparisons of plans.
        rounding: Codes from second moments of the inputs; None for rounding to nearest, bias-corrected where the
            moments of the inputs are known.
        reconstruction: Makes the object that learns the rounding of whole blocks; None for layer by layer.
        surrogate: Name of the cheap method used instead to compare plans; "" for the method itself.
    """

    ranges: RangeFunction
    range_errors: ErrorFunction | None = None
    range_estimates: ErrorFunction | None = None
    rounding: Rounding | None = None
    reconstruction: Callable[[ReconstructionTask], Reconstructor] | None = None
    surrogate: str = ""

    @property
    def needs(self) -> Needs:
        """Information that the method requires."""
        if self.reconstruction is not None:
            return Needs.TORCH
        return Needs.NOTHING if self.rounding is None else Needs.SECOND_MOMENTS

    def fit(self, rows: Rows, bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
        """Scale and zero point of each row, by the method or of the lattice that the rows lie on.

        The lattice is used where its error is no larger: rounding of its scales to float16 may favour the method.

        Args:
            rows: Weights [N, M]; a row shares one scale.
            bits: Width of the codes, 2 to 8.
            symmetric: Whether the zero point is fixed at the middle code.

        Returns:
            Scale as stored (float16 or float32) [N], and zero point (uint8) [N], or [1] when symmetric.
        """
        own, exact = self.ranges(rows, bits, symmetric), lattice.fit(rows, bits, symmetric)
        if exact is None or nearest_error(rows, *exact, bits) > nearest_error(rows, *own, bits):
            return own
        return exact

    def errors(self, rows: Rows, bits: Sequence[int], symmetric: bool, estimate: bool = False) -> list[float]:
        """Sum of squared errors of `fit`.

        Args:
            rows: Weights [N, M]; a row shares one scale.
            bits: Widths of the codes, 2 to 8.
            symmetric: Whether the zero point is fixed at the middle code.
            estimate: Whether an estimate is enough, where the method is slow.

        Returns:
            One sum over all weights for each of `bits`.
        """
        known = self.range_errors or self._rounded
        found = ((self.range_estimates if estimate else None) or known)(rows, bits, symmetric)
        exact = [lattice.fit(rows, b, symmetric) for b in bits]
        return [
            e if f is None else min(e, nearest_error(rows, *f, b)) for b, e, f in zip(bits, found, exact, strict=True)
        ]

    def estimates(self, estimate: bool) -> bool:
        """Whether `errors` are those of some rows, where an estimate is enough."""
        return estimate and self.range_estimates is not None

    def _rounded(self, rows: Rows, bits: Sequence[int], symmetric: bool) -> list[float]:
        return [nearest_error(rows, *self.ranges(rows, b, symmetric), b) for b in bits]


def _brecq(task: ReconstructionTask) -> Reconstructor:
    from mixquant_onnx.quantization.reconstruction.brecq import Brecq

    return Brecq(task)


_MINMAX = Method(ranges=minmax.fit, range_errors=minmax.errors)
_MSE = Method(ranges=mse.fit, range_errors=mse.errors, range_estimates=mse.estimated_errors)
_ADAROUND = replace(_MSE, rounding=coordinate_descent.after(adaround.solve), surrogate="gptq")

METHODS: dict[str, Method] = {
    "minmax": _MINMAX,
    "asymmetric": _MINMAX,
    "mse": _MSE,
    "brecq": replace(_ADAROUND, reconstruction=_brecq),
    "hqq": Method(ranges=hqq.fit),
    "gptq": replace(_MSE, rounding=coordinate_descent.after(gptq.solve)),
    "adaround": _ADAROUND,
}
"""By name. A layer outside of all blocks is reconstructed alone, which is AdaRound. As the surrogate of learned
rounding, gptq is as good as adaround and faster (docs/research/experiment-ablation.md).
"""


def method(name: str) -> Method:
    """The row of a method.

    Args:
        name: Name of the method.

    Returns:
        Its row in the table.

    Raises:
        OptionError: There is no such method.
    """
    if name not in METHODS:
        raise OptionError(f"method '{name}' is not known; choose from {', '.join(METHODS)}")
    return METHODS[name]


def is_calibrated(name: str) -> bool:
    """Whether a method needs inputs of the layers: the user's data, or proxies. False for an unknown name."""
    return name in METHODS and METHODS[name].needs is not Needs.NOTHING


def needs_torch(name: str) -> bool:
    """Whether a method needs the extra `reconstruct`. False for an unknown name."""
    return name in METHODS and METHODS[name].needs is Needs.TORCH


def check_torch(name: str) -> None:
    """Check that torch can be imported.

    Args:
        name: Name of the method that needs it, for the message.

    Raises:
        OptionError: torch is not installed, or does not import.
    """
    if find_spec("torch") is None:
        raise OptionError(f"--method {name} needs torch: pip install 'mixquant-onnx[reconstruct]'")
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        raise OptionError(
            f"--method {name}: torch does not import ({first_line(error)}); "
            f"pip install 'mixquant-onnx[reconstruct]' anew"
        ) from error


def surrogate(scheme: Scheme) -> Scheme:
    """Replace the method of a scheme by the cheap one used to compare plans (gptq for adaround and brecq).

    Args:
        scheme: The scheme of a plan.

    Returns:
        The same scheme with the surrogate of its method; `scheme` itself where there is none.

    Raises:
        OptionError: The scheme's method is not known.
    """
    other = method(scheme.method).surrogate
    return replace(scheme, method=other) if other else scheme
