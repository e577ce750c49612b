"""Histograms of activations, and the ranges and grids that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import PROPERTIES, Array
from hypothesis import given
from hypothesis import strategies as st

from mixquant_onnx.quantization.activations.histogram import BINS, Histogram
from mixquant_onnx.quantization.activations.ranges import METHODS, TOP, activation_grid, grid_of


def counted(*parts: Array) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def rounding_error(values: Array, ends: tuple[float, float]) -> float:
    grid = grid_of(ends)
    codes = np.clip(np.rint(values / grid.scale) + grid.zero_point, 0, TOP)
    return float(np.mean(((codes - grid.zero_point) * grid.scale - values) ** 2))


LONG_TAILS = np.random.default_rng(0).standard_t(3, 40_000).astype(np.float32)
OUTLIERS = np.append(np.random.default_rng(4).standard_normal(1_000_000), [100, -50, 20]).astype(np.float32)
NORMAL = np.random.default_rng(1).standard_normal(40_000).astype(np.float32)


@PROPERTIES
@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=20), min_size=1, max_size=5
    )
)
def test_each_value_is_counted_once_in_its_bin_however_far_later_ones_are(parts: list[list[float]]) -> None:
    histogram = counted(*(np.array(part, np.float32) for part in parts))
    values = np.sort(np.array([v for part in parts for v in part], np.float32))
    assert histogram.low == min(values[0], 0) and histogram.high == max(values[-1], 0)
    middles, counts = histogram.counts()
    assert counts.sum() == values.size
    width = 4 * max(-histogram.low, histogram.high) / BINS
    np.testing.assert_allclose(np.repeat(middles, counts), values, atol=width / 2 * 1.001)


def test_merged_histograms_count_the_values_of_both() -> None:
    near, far = counted(NORMAL), counted(100 * LONG_TAILS)
    near.merge(far)
    middles, counts = near.counts()
    assert counts.sum() == 80_000
    both = np.sort(np.concatenate([NORMAL, 100 * LONG_TAILS]))
    width = 4 * max(-near.low, near.high) / BINS
    np.testing.assert_allclose(np.repeat(middles, counts), both, atol=width)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_have_no_grid(bad: float) -> None:
    histogram = counted(NORMAL, np.array([1, bad], np.float32))
    assert not histogram.usable
    assert activation_grid(histogram, "minmax") is None
    other = counted(NORMAL)
    other.merge(histogram)
    assert activation_grid(other, "minmax") is None


def test_zeros_alone_have_no_grid() -> None:
    assert activation_grid(counted(np.zeros(9, np.float32)), "mse") is None
    assert activation_grid(Histogram(), "mse") is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("values", [NORMAL, LONG_TAILS, np.abs(NORMAL), -np.abs(LONG_TAILS), NORMAL[:1]])
def test_a_range_contains_zero_and_no_more_than_the_values(name: Any, values: Array) -> None:
    histogram = counted(values)
    low, high = METHODS[name](histogram)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    assert low < high
    grid = activation_grid(histogram, name)
    assert grid is not None and grid.scale > 0 and 0 <= grid.zero_point <= TOP
    assert grid.zero_point == 0 if values.min() >= 0 else grid.zero_point > 0


def test_mse_has_the_least_error_of_all() -> None:
    histogram = counted(LONG_TAILS)
    errors = {name: rounding_error(LONG_TAILS, find(histogram)) for name, find in METHODS.items()}
    assert min(errors, key=errors.__getitem__) == "mse"
    wider = min(rounding_error(LONG_TAILS, (s * histogram.low, s * histogram.high)) for s in np.linspace(0.05, 1, 96))
    assert errors["mse"] < 1.02 * wider


def test_other_methods_clip_outliers_and_keep_short_tails() -> None:
    for name in ("percentile", "entropy"):
        low, high = METHODS[name](counted(OUTLIERS))
        assert -20 < low < -2 and 2 < high <= 20
        low, high = METHODS[name](counted(np.random.default_rng(2).uniform(-1, 1, 40_000)))
        assert high - low > 1.9


def test_of_large_arrays_some_elements_are_counted_and_the_ends_are_those_of_all() -> None:
    values = np.random.default_rng(2).standard_normal(1_000_000).astype(np.float32)
    values[123_457] = 9
    large, small = Histogram(), Histogram()
    large.add(values)
    for part in np.split(values, 100):
        small.add(part)
    assert large.total == small.total == 1_000_000 and large.high == small.high == 9
    assert small.counts()[1].sum() == 1_000_000 != large.counts()[1].sum()
    errors = [rounding_error(values, METHODS["mse"](one)) for one in (large, small)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_counted_elements_do_not_follow_an_axis() -> None:
    striped = np.tile(np.arange(8, dtype=np.float32), 1 << 18)
    one = Histogram()
    one.add(striped)
    counts = one.counts()[1]
    assert len(counts) == 8 and counts.max() - counts.min() < 0.001 * counts.max()
