"""Errors of rounding against a plain formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Array

from mixquant_onnx.numerics import rounding_error
from mixquant_onnx.numerics.rounding_error import row_errors, squared_errors


def plain_error(rows: Array, scale: Array, low: float = -np.inf, high: float = np.inf) -> Array:
    """Of each row, in float64."""
    step = scale.astype(np.float32).astype(np.float64)[:, None]
    values = rows.astype(np.float64)
    return np.asarray(((values - np.clip(np.rint(values / step), low, high) * step) ** 2).sum(axis=1))


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (7, 30), (300, 700), (3, 40_000), (1, 70_000), (2, 0)])
@pytest.mark.parametrize("chunk", [rounding_error.CHUNK, 1000])
def test_errors_of_rounding_are_those_of_a_plain_formula(
    shape: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding_error, "CHUNK", chunk)
    rows = normal(*shape)
    scales: list[Array] = [np.full(shape[0], 0.13, np.float16), np.linspace(0.01, 0.5, shape[0]).astype(np.float32)]
    wanted = [plain_error(rows, scale) for scale in scales]
    assert squared_errors(rows, scales) == pytest.approx([w.sum() for w in wanted], rel=1e-4, abs=1e-12)
    low, high = np.full(shape[0], -3, np.float32), np.full(shape[0], 2, np.float32)
    for scale in scales:
        found = row_errors(rows, scale, low, high)
        assert found.shape == (shape[0],) and found.dtype == np.float64
        np.testing.assert_allclose(found, plain_error(rows, scale, -3, 2), rtol=1e-4, atol=1e-12)


def test_each_row_is_saturated_to_its_own_ends() -> None:
    rows = np.array([[-5, 0.2, 5], [-5, 0.2, 5]], np.float32)
    low, high = np.array([-1, -4], np.float32), np.array([2, 3], np.float32)
    found = row_errors(rows, np.ones(2, np.float32), low, high)
    np.testing.assert_allclose(found, [16 + 0.04 + 9, 1 + 0.04 + 4], rtol=1e-5)


@pytest.mark.parametrize("at", [0, 999, 1000, 1999, 2000, 2001, 2499])
def test_every_weight_counts_once(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is half a step off, among others that are off by a fiftieth, wherever parts of the work meet."""
    monkeypatch.setattr(rounding_error, "CHUNK", 1000)
    flat = np.full(2500, 1.02, np.float32)
    flat[at] = 7.5
    one = np.ones(1, np.float32)
    wanted = pytest.approx(0.25 + 2499 * 0.02**2, rel=1e-3)
    for rows in (flat[None], flat[:, None], flat.reshape(5, 500), flat.reshape(50, 50)):
        ones, ends = np.ones(len(rows), np.float32), np.full(len(rows), 100, np.float32)
        assert squared_errors(rows, [one])[0] == wanted
        assert squared_errors(rows, [ones])[0] == wanted
        assert row_errors(rows, ones, -ends, ends).sum() == wanted


@pytest.mark.parametrize("count", [1000, 40_000])
def test_one_scale_for_the_tensor_is_one_for_each_row(count: int) -> None:
    rows = normal(4, count // 4)
    scales = [np.array([s], np.float32) for s in (0.02, 0.3)]
    wanted = [plain_error(rows, np.repeat(scale, 4)).sum() for scale in scales]
    assert squared_errors(rows, scales) == pytest.approx(wanted, rel=1e-4)


def test_weights_on_the_grid_have_hardly_an_error_and_others_of_the_same_call_keep_theirs() -> None:
    """As a share of the step squared, where rounding of float32 in steps would show."""
    codes = np.random.default_rng(0).integers(-100, 100, 40_000)
    step = np.array([0.0371], np.float32)
    rows = (codes * step).astype(np.float32)[None]
    exact, other = squared_errors(rows, [step, step * 3])
    assert exact < 1e-12 * rows.size * float(step[0]) ** 2
    assert other == pytest.approx(plain_error(rows, step * 3).sum(), rel=1e-2)


def test_weights_off_the_grid_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one scale for the tensor, in the quicker of the two ways."""
    monkeypatch.setattr(rounding_error, "_rows_errors", None)
    rows, scale = normal(1, rounding_error.CHUNK), np.full(1, 0.1, np.float32)
    assert squared_errors(rows, [scale])[0] == pytest.approx(plain_error(rows, scale).sum(), rel=1e-4)


@pytest.mark.parametrize("size", [1e-21, 1e-18, 1e18, 1e20])
@pytest.mark.parametrize("width", [50, 40_000])
def test_weights_whose_squares_leave_the_range_of_float32_are_worked_on_in_float64(size: float, width: int) -> None:
    rows = normal(2, width) * np.float32(size)
    for scale in (np.full(2, 0.1 * size, np.float32), np.array([0.1, 0.2], np.float32) * np.float32(size)):
        wanted = plain_error(rows, scale)
        assert squared_errors(rows, [scale])[0] == pytest.approx(wanted.sum(), rel=1e-3)
        ends = np.full(2, 1000, np.float32)
        np.testing.assert_allclose(row_errors(rows, scale, -ends, ends), wanted, rtol=1e-3)


@pytest.mark.parametrize("far", [1e-20, 1e20])
def test_one_extreme_scale_among_others_is_enough(far: float) -> None:
    rows = normal(2, 50) * np.array([[1], [far]], np.float32)
    scale, ends = np.array([0.1, 0.1 * far], np.float32), np.full(2, 1000, np.float32)
    wanted = plain_error(rows, scale)
    assert (wanted > 0).all()
    np.testing.assert_allclose(row_errors(rows, scale, -ends, ends), wanted, rtol=1e-3)
    assert squared_errors(rows, [scale])[0] == pytest.approx(wanted.sum(), rel=1e-3)
