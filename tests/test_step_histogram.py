"""How the values of a weight lie on the grid of its codes."""

from __future__ import annotations

import numpy as np
import pytest

from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.numerics.step_histogram import BINS, step_histogram


def quantized(shape: tuple[int, int], scale: list[float], zero: list[int], grid: str, bits: int = 3) -> QuantizedTensor:
    count = len(scale) // shape[0] or 1
    form = (shape[0] if grid != "tensor" else 1, count if grid.startswith("b") else 1, 1)
    return QuantizedTensor(
        codes=np.zeros(shape, np.uint8), scale=np.array(scale, np.float32).reshape(form),
        zero_point=np.array(zero, np.uint8).reshape(form), scheme=Scheme(bits=bits, grid=Granularity.parse(grid)),
        layout=WeightAxes(p=1, r=1, q=0, s=0), dtype="float32",
    )  # fmt: skip


def test_values_are_counted_in_steps_of_their_channel() -> None:
    weight = np.array([[-4.0, 0, 3, 3.4], [-40, 0, 30, 40]], np.float32)
    found = step_histogram(weight, quantized((2, 4), [1, 10], [4, 4], "channel"))
    assert (found.lowest, found.highest) == (-4, 3) and sum(found.counts) == 8 and len(found.counts) == BINS
    at = {round(found.start + (place + 0.5) * found.width): n for place, n in enumerate(found.counts) if n > 1}
    assert at == {-4: 2, 0: 2, 3: 2}
    assert found.clipped == pytest.approx(1 / 8)


def test_zero_points_of_channels_differ() -> None:
    weight = np.array([[0.0, 7], [-7, 0]], np.float32)
    found = step_histogram(weight, quantized((2, 2), [1, 1], [0, 7], "channel"))
    assert (found.lowest, found.highest, found.clipped) == (-7, 7, 0)
    assert [found.start, found.start + BINS * found.width] == pytest.approx([-7.5, 7.5])


def test_a_scale_of_zero_counts_as_zero() -> None:
    found = step_histogram(np.zeros((1, 4), np.float32), quantized((1, 4), [0], [0], "tensor"))
    assert sum(found.counts) == 4 and np.isfinite(found.start)


def test_large_weights_are_thinned_evenly() -> None:
    weight = np.linspace(-4, 3, 1 << 18, dtype=np.float32).reshape(1 << 9, 1 << 9)
    found = step_histogram(weight, quantized(weight.shape, [1], [4], "tensor"))
    inner = found.counts[5:-5]
    assert sum(found.counts) == 1 << 16 and max(inner) - min(inner) <= 2
