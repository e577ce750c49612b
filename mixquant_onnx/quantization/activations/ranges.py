"""The range of an activation, and its grid of 256 codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.config.activations import RangeMethod
from mixquant_onnx.quantization.activations.histogram import Histogram

Ends = tuple[float, float]
"""Lower end, at most 0, and upper end, at least 0."""

TOP = 255
"""The largest code of uint8."""

_KEPT = 0.99999
"""Share of the values that `percentile` keeps inside of the range."""

_SHARES = np.linspace(1.0, 0.2, 65)
"""Shares of min-max that are tried for each end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationGrid:
    """256 equally spaced levels, of which one is 0.

    Attributes:
        scale: The distance of two levels; float32.
        zero_point: The code of 0.
    """

    scale: float
    zero_point: int


def minmax(histogram: Histogram) -> Ends:
    """The smallest and the largest value.

    Args:
        histogram: The values.

    Returns:
        The ends.
    """
    return histogram.low, histogram.high


def percentile(histogram: Histogram) -> Ends:
    """The range without the outermost values.

    Args:
        histogram: The values.

    Returns:
        The ends.
    """
    middles, counts = histogram.counts()
    share = np.cumsum(counts) / counts.sum()
    low = middles[int(np.searchsorted(share, 1 - _KEPT))]
    high = middles[int(np.searchsorted(share, _KEPT))]
    return max(histogram.low, min(float(low), 0.0)), min(histogram.high, max(float(high), 0.0))


def mse(histogram: Histogram) -> Ends:
    """The range of least squared error of rounding and clipping.

    Args:
        histogram: The values.

    Returns:
        The ends.

    Source:
        Nagel et al. 2021, arXiv 2106.08295, section 3.1.
    """
    middles, counts = histogram.counts()

    def error(ends: Ends) -> float:
        grid = grid_of(ends)
        codes = np.clip(np.rint(middles / grid.scale) + grid.zero_point, 0, TOP)
        inside = counts * np.square((codes - grid.zero_point) * grid.scale - middles)
        return float(inside.sum())

    return _best(histogram, error)


def entropy(histogram: Histogram) -> Ends:
    """The range of least Kullback-Leibler divergence between the values and their codes.

    Args:
        histogram: The values.

    Returns:
        The ends.

    Source:
        Migacz 2017, "8-bit inference with TensorRT"; here both ends are moved.
    """
    middles, counts = histogram.counts()
    share = counts / counts.sum()

    def divergence(ends: Ends) -> float:
        grid = grid_of(ends)
        codes = np.clip(np.rint(middles / grid.scale) + grid.zero_point, 0, TOP).astype(np.int64)
        inside = np.flatnonzero((middles >= ends[0]) & (middles <= ends[1]))
        if not inside.size:
            return float("inf")
        # Clipped values are all at the ends of the reference; the codes are those of the values inside alone.
        wanted = share[inside].copy()
        wanted[0] += share[: inside[0]].sum()
        wanted[-1] += share[inside[-1] + 1 :].sum()
        bins = np.bincount(codes[inside], minlength=TOP + 1)[codes[inside]]
        spread = np.bincount(codes[inside], weights=share[inside], minlength=TOP + 1)[codes[inside]] / bins
        return float(np.sum(wanted * np.log(wanted * share[inside].sum() / spread)))

    return _best(histogram, divergence)


def _best(histogram: Histogram, loss: Callable[[Ends], float]) -> Ends:
    """The ends of least loss: both together, then each alone."""
    low, high = histogram.low, histogram.high
    share = min(_SHARES, key=lambda s: loss((low * s, high * s)))
    ends = (low * share, high * share)
    for _ in range(2):
        ends = min(((low * s, ends[1]) for s in _SHARES), key=loss) if low < 0 else ends
        ends = min(((ends[0], high * s) for s in _SHARES), key=loss) if high > 0 else ends
    return float(ends[0]), float(ends[1])


METHODS: dict[RangeMethod, Callable[[Histogram], Ends]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""By the name that `--activation-ranges` gives."""


def grid_of(ends: Ends) -> ActivationGrid:
    """The grid of a range.

    Args:
        ends: The range.

    Returns:
        The grid: its levels reach from end to end, moved so that 0 is a level.

    Source:
        ONNX QuantizeLinear-10, uint8.
    """
    low, high = ends
    scale = float(np.float32((high - low) / TOP))
    if scale < np.finfo(np.float32).tiny:
        return ActivationGrid(scale=1.0, zero_point=0)
    return ActivationGrid(scale=scale, zero_point=int(np.clip(round(-low / scale), 0, TOP)))


def activation_grid(histogram: Histogram, method: RangeMethod) -> ActivationGrid | None:
    """The grid of an activation.

    Args:
        histogram: Its values.
        method: How the range is found.

    Returns:
        The grid; None where a value was NaN or infinite, or all were 0.
    """
    if not histogram.usable or histogram.low == histogram.high:
        return None
    return grid_of(METHODS[method](histogram))
