"""Weights that lie on a grid are stored without loss in the fewest bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import text
from numpy.typing import NDArray

import mixquant_onnx as mq
from mixquant_onnx.quantization.ranges import lattice
from mixquant_onnx.quantization.ranges.nearest import nearest_error

RANDOM = np.random.default_rng(4)


def on_grid(low: int, high: int, rows: int = 32, width: int = 64) -> NDArray[np.float32]:
    """Integers low..high, all of them in each row, times a step of each row."""
    codes = RANDOM.integers(low, high + 1, (rows, width))
    codes[:, : high - low + 1] = np.arange(low, high + 1)
    return (codes * RANDOM.uniform(0.01, 0.1, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize(("low", "high", "bits"), [(-1, 1, 2), (0, 3, 2), (-7, 8, 4), (-20, 11, 5), (-128, 127, 8)])
def test_the_fewest_bits_that_hold_all_levels(low: int, high: int, bits: int) -> None:
    rows = on_grid(low, high, width=600)
    assert bits == 2 or lattice.fit(rows, bits - 1, False) is None
    found = lattice.fit(rows, bits, False)
    assert found is not None
    relative = nearest_error(rows, *found, bits) / float(np.sum(rows.astype(np.float64) ** 2))
    assert relative < 2.0**-20  # what rounding of the scales to float16 may leave: 2^-11, squared, a quarter at worst


def test_weights_on_no_grid_are_left_to_the_method() -> None:
    rows = RANDOM.standard_normal((32, 64)).astype(np.float32)
    assert all(lattice.fit(rows, bits, False) is None for bits in range(2, 9))
    mixed = on_grid(-1, 1)
    mixed[7] = rows[7]
    assert lattice.fit(mixed, 8, False) is None


def test_symmetric_grids_have_the_middle_for_zero() -> None:
    found = lattice.fit(on_grid(-1, 1), 2, True)
    assert found is not None and found[1].tolist() == [2]
    assert lattice.fit(on_grid(0, 3), 2, True) is None


@pytest.mark.parametrize("given", [True, False])
def test_a_ternary_convolution_takes_two_bits_and_loses_nothing(given: bool) -> None:
    w = (RANDOM.integers(-1, 2, (48, 16, 3, 3)) * 0.037).astype(np.float32)
    model = text("g (float[N,16,8,8] x, float[48,16,3,3] w) => (float[N,48,6,6] y) { y = Conv (x, w) }", w=w)
    data: dict[str, Any] = {"data": {"x": RANDOM.standard_normal((64, 16, 8, 8)).astype(np.float32)}} if given else {}
    made = mq.quantize(model, **data)
    assert made.plan.sites["w"].bits == 2
    proof = made.verification
    assert proof is not None and proof.deployed is not None and (proof.deployed.sqnr_db or 0) > 60


@pytest.mark.parametrize("what", ["more than 256 values", "between two levels", "more than 255 steps", "no number"])
def test_one_row_that_is_on_no_lattice_is_enough_for_none(what: str) -> None:
    rows = on_grid(-7, 8)
    assert lattice.fit(rows, 8, False) is not None
    step, other = float(np.diff(np.unique(rows[5])).min()), rows[5].copy()
    if what == "more than 256 values":
        rows, other = np.tile(rows, 10), np.arange(640, dtype=np.float32)
    elif what == "between two levels":
        other[3] = np.float32(3.4 * step)
    elif what == "more than 255 steps":
        other[3] = np.float32(256 * step)
    else:
        other[3] = np.nan
    rows[5] = other
    assert lattice.fit(rows, 8, False) is None


def test_values_that_differ_by_rounding_only_are_one_level() -> None:
    rows = on_grid(-7, 8)
    rows[5, 16:] *= np.float32(1 + 1e-6)
    assert lattice.fit(rows, 4, False) is not None
