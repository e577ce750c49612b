"""How the values of a weight lie on the grid of its codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.rows import effective_grid, expand_params
from mixquant_onnx.numerics.scheme import QuantizedTensor

BINS = 64

_MOST = 1 << 16
"""Values that are counted, evenly spread over a tensor: the picture does not change with more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepHistogram:
    """Values of a weight divided by their scales, so that the grid lies at whole numbers in every channel.

    Attributes:
        start: Lower end of the first bin.
        width: Width of a bin.
        counts: Number of values in each of `BINS` bins.
        lowest: Lowest point of the grid, over all channels.
        highest: Highest point of the grid.
        clipped: Share of the values that lie more than half a step outside the grid of their channel.
    """

    start: float
    width: float
    counts: tuple[int, ...]
    lowest: int
    highest: int
    clipped: float


def step_histogram(weight: FloatArray, quantized: QuantizedTensor) -> StepHistogram:
    """Count the values of a weight in steps of their scales.

    Args:
        weight: The float values.
        quantized: Scales and zero points; its codes are not read.

    Returns:
        The histogram, of at most 65,536 values.
    """
    scheme, shape = quantized.scheme, weight.shape
    grid = effective_grid(shape, quantized.layout, scheme.grid)
    scale, zero = (
        np.broadcast_to(expand_params(values.astype(np.float32), shape, quantized.layout, grid), shape)
        for values in (quantized.scale, quantized.zero_point)
    )
    chosen = np.unravel_index(np.arange(0, weight.size, -(-weight.size // _MOST)), shape)
    step, origin = scale[chosen].astype(np.float64), zero[chosen].astype(np.float64)
    steps = np.divide(weight[chosen], step, out=np.zeros(len(step)), where=step != 0)
    codes, last = steps + origin, 2**scheme.bits - 1
    lowest, highest = int(-origin.max()), int(last - origin.min())
    start, end = min(lowest - 0.5, float(steps.min())), max(highest + 0.5, float(steps.max()))
    counts, _ = np.histogram(steps, bins=BINS, range=(start, end))
    return StepHistogram(
        start=start,
        width=(end - start) / BINS,
        counts=tuple(map(int, counts)),
        lowest=lowest,
        highest=highest,
        clipped=float(np.mean((codes < -0.5) | (codes > last + 0.5))),
    )
