"""Rounding that keeps the mean of the output, against every combination of steps on rows small enough."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import Array

from mixquant_onnx.data.moments import Moments
from mixquant_onnx.quantization.rounding import bias_corrected
from mixquant_onnx.quantization.rounding.bias_corrected import compensate

HIGHEST = 15


def positive_inputs(width: int, seed: int = 0, groups: int = 1) -> Moments:
    random = np.random.default_rng([1, seed])
    mean, variance = random.uniform(0.2, 1, (groups, width)), random.uniform(0.05, 0.5, (groups, width))
    return Moments(mean=mean.astype(np.float32), variance=variance.astype(np.float32))


def rounded(rows: int, width: int, seed: int = 0, highest: int = HIGHEST) -> tuple[Array, Array, Array, Array]:
    """(weights, codes of rounding to nearest, scale, zero point), a scale a row."""
    random = np.random.default_rng([2, seed])
    weights = random.standard_normal((rows, width)).astype(np.float32)
    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    scale = ((high - low) / highest).astype(np.float32)
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(weights / scale) + zero, 0, highest).astype(np.uint8)
    return weights, codes, scale, zero


def output_error(weights: Array, codes: Array, scale: Array, zero: Array, inputs: Moments) -> Array:
    """Mean squared error of each output for uncorrelated inputs, in float64."""
    mean, variance = (np.repeat(part, len(weights) // len(part), axis=0) for part in (inputs.mean, inputs.variance))
    error = weights - (codes.astype(np.float64) - zero) * scale
    return np.asarray((error * mean).sum(axis=1) ** 2 + (error**2 * variance).sum(axis=1))


def steps_to_the_other_side(weights: Array, codes: Array, scale: Array, zero: Array) -> Array:
    return np.sign(weights - (codes.astype(np.float32) - zero) * scale)


def test_few_weights_get_nearly_the_best_of_all_combinations() -> None:
    weights, codes, scale, zero = rounded(40, 8)
    inputs = positive_inputs(8)
    found = output_error(weights, compensate(weights, codes, scale, zero, HIGHEST, inputs), scale, zero, inputs)
    other = codes + steps_to_the_other_side(weights, codes, scale, zero)
    best = np.full(40, np.inf)
    for flips in itertools.product([False, True], repeat=8):
        tried = np.where(flips, other, codes)
        error = output_error(weights, tried, scale, zero, inputs)
        best = np.minimum(best, np.where(((tried >= 0) & (tried <= HIGHEST)).all(axis=1), error, np.inf))
    assert (found >= best * (1 - 1e-4)).all()
    assert found.mean() < 1.15 * best.mean()
    assert found.mean() < 0.7 * output_error(weights, codes, scale, zero, inputs).mean()


def one_after_another(row: Array, codes: Array, step: float, zero: float, highest: int, inputs: Moments) -> list[int]:
    """Steps to the other side by rising price for what they take from the shift, up to the least output error."""
    mean, variance = inputs.mean[0].astype(np.float64), inputs.variance[0].astype(np.float64)
    error = row.astype(np.float64) - (codes - zero) * step
    shift = float(error @ mean)
    other = codes + np.sign(error)
    price = variance * ((np.abs(error) - step) ** 2 - error**2) / mean
    useful = [j for j in range(len(row)) if error[j] * mean[j] * shift > 0 and 0 <= other[j] <= highest]
    best, tried = (float("inf"), codes), codes.astype(np.float64)
    for j in [None, *sorted(useful, key=lambda j: price[j])]:
        tried = tried.copy()
        if j is not None:
            tried[j] = other[j]
        error = row - (tried - zero) * step
        best = min(best, (float((error @ mean) ** 2 + error**2 @ variance), tried), key=lambda pair: pair[0])
    return [int(code) for code in best[1]]


@pytest.mark.parametrize("highest", [3, 15])
@pytest.mark.parametrize("width", [8, 300])
def test_steps_are_taken_one_after_another_as_long_as_they_gain(width: int, highest: int) -> None:
    weights, codes, scale, zero = rounded(24, width, highest=highest)
    inputs = positive_inputs(width)
    found = compensate(weights, codes, scale, zero, highest, inputs)
    for k in range(24):
        one = one_after_another(weights[k], codes[k], float(scale[k, 0]), float(zero[k, 0]), highest, inputs)
        assert found[k].tolist() == one


@pytest.mark.parametrize("width", [3, 40, 700])
def test_no_output_is_worse_than_rounded_to_nearest(width: int) -> None:
    weights, codes, scale, zero = rounded(64, width)
    inputs = positive_inputs(width)
    better = compensate(weights, codes, scale, zero, HIGHEST, inputs)
    before, after = (output_error(weights, c, scale, zero, inputs) for c in (codes, better))
    assert (after <= before * (1 + 1e-5)).all()
    assert after.mean() < 0.8 * before.mean()


def test_a_weight_moves_by_one_step_to_the_side_that_it_was_rounded_away_from() -> None:
    weights, codes, scale, zero = rounded(64, 100)
    better = compensate(weights, codes, scale, zero, HIGHEST, positive_inputs(100))
    moved = better.astype(np.int16) - codes
    assert 0 < np.count_nonzero(moved) < 0.3 * moved.size
    assert np.isin(moved[moved != 0], [-1, 1]).all()
    towards = steps_to_the_other_side(weights, codes, scale, zero)
    assert (moved[moved != 0] == towards[moved != 0]).all()
    assert (np.ptp(np.sign(moved), axis=1) <= 1).all(), "inputs are positive, so all steps of a row have one sign"


def test_the_weights_whose_inputs_vary_least_move_first() -> None:
    """Two weights could make up for the shift of a third."""
    inputs = Moments(mean=np.ones((1, 3), np.float32), variance=np.array([[1.0, 0.1, 1.0]], np.float32))
    weights, one = np.array([[0.4, 0.4, 0.4]], np.float32), np.ones((1, 1), np.float32)
    assert compensate(weights, np.zeros((1, 3), np.uint8), one, one * 0, HIGHEST, inputs).tolist() == [[0, 1, 0]]


def test_a_step_that_costs_more_variance_than_it_saves_is_not_taken() -> None:
    weights, one = np.array([[0.4, 0.4, 0.4]], np.float32), np.ones((1, 1), np.float32)
    inputs = Moments(mean=np.ones((1, 3), np.float32), variance=np.full((1, 3), 10, np.float32))
    assert not compensate(weights, np.zeros((1, 3), np.uint8), one, one * 0, HIGHEST, inputs).any()


def test_codes_stay_in_their_range() -> None:
    """All inputs ask for a step beyond the lowest and the highest code."""
    inputs = Moments(mean=np.ones((1, 20), np.float32), variance=np.full((1, 20), 1e-6, np.float32))
    one = np.ones((1, 1), np.float32)
    for code, off in ((0, -0.4), (HIGHEST, 0.4)):
        codes = np.full((1, 20), code, np.uint8)
        weights = np.full((1, 20), code + off, np.float32)
        assert (compensate(weights, codes, one, one * 0, HIGHEST, inputs) == code).all()
    inner = np.full((1, 20), 0.4, np.float32)
    assert compensate(inner, np.zeros((1, 20), np.uint8), one, one * 0, 1, inputs).sum() == 8


@pytest.mark.parametrize("groups", [1, 4])
def test_rows_worked_on_in_parts_are_those_worked_on_at_once(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, codes, scale, zero = rounded(16, 30)
    inputs = positive_inputs(30, groups=groups)
    together = compensate(weights, codes, scale, zero, HIGHEST, inputs)
    monkeypatch.setattr(bias_corrected, "_AT_ONCE", 5 * 30)
    assert (compensate(weights, codes, scale, zero, HIGHEST, inputs) == together).all()
    before, after = (output_error(weights, c, scale, zero, inputs) for c in (codes, together))
    assert (after <= before * (1 + 1e-5)).all() and after.mean() < 0.8 * before.mean()


def test_the_codes_that_are_given_are_not_changed() -> None:
    weights, codes, scale, zero = rounded(4, 30)
    codes.flags.writeable = False
    assert (compensate(weights, codes, scale, zero, HIGHEST, positive_inputs(30)) != codes).any()
