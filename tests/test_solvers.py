"""Solvers on second moments: never worse than rounding to nearest, right on cases small enough to enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mixquant_onnx.quantization.rounding import adaround, coordinate_descent, gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows

Solve = Callable[[Problem], Rows]


def problem(groups: int = 1, rows: int = 8, width: int = 24, bits: int = 3, seed: int = 0) -> Problem:
    """Correlated inputs with a mean, as after a ReLU."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((groups, 200, width)) @ random.standard_normal((groups, width, width))
    inputs = np.maximum(mixed + 0.5, 0)
    matrix = (inputs.transpose(0, 2, 1) @ inputs / 200).astype(np.float32)
    matrix += np.eye(width, dtype=np.float32) * 0.01 * np.trace(matrix[0]) / width
    target = random.standard_normal((groups, rows, width)).astype(np.float32)
    highest = (1 << bits) - 1
    scale = (target.max(2, keepdims=True) - target.min(2, keepdims=True)) / highest
    zero = np.rint(-target.min(2, keepdims=True) / scale)
    return Problem(target=target, scale=scale, zero_point=zero, highest=highest, matrix=matrix)


def codes(levels: Rows, of: Problem) -> Rows:
    return np.asarray(levels / of.scale + of.zero_point, np.float32)


@pytest.mark.parametrize("solve", [gptq.solve, adaround.solve])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_solver_gives_codes_of_the_grid_with_less_error_than_nearest(solve: Solve, bits: int, groups: int) -> None:
    given = problem(groups=groups, bits=bits)
    levels = solve(given)
    found = codes(levels, given)
    assert np.abs(found - np.rint(found)).max() < 1e-3
    assert found.min() > -0.1
    assert found.max() < given.highest + 0.1
    assert given.loss(levels) < 0.8 * given.loss(given.rounded())


@pytest.mark.parametrize("solve", [gptq.solve, adaround.solve])
def test_groups_are_solved_as_if_each_were_alone(solve: Solve) -> None:
    given = problem(groups=3)
    far = np.array([1, 100, 0.01], np.float32)[:, None, None]
    given = replace(given, target=given.target * far, scale=given.scale * far)
    if solve is gptq.solve:
        given = replace(given, matrix=np.repeat(given.matrix[:1], 3, axis=0))
    together = solve(given)
    for g in range(3):
        pick = slice(g, g + 1)
        one = Problem(
            target=given.target[pick], scale=given.scale[pick], zero_point=given.zero_point[pick],
            highest=given.highest, matrix=given.matrix[pick],
        )  # fmt: skip
        assert one.loss(together[pick]) == pytest.approx(one.loss(solve(one)), rel=0.02)


def test_uncorrelated_inputs_leave_rounding_to_nearest() -> None:
    given = problem()
    given = replace(given, matrix=np.diag(np.linspace(1, 2, 24)).astype(np.float32)[None])
    nearest = given.rounded()
    np.testing.assert_allclose(gptq.solve(given), nearest, atol=1e-6)
    np.testing.assert_allclose(coordinate_descent.solve(given, nearest), nearest, atol=1e-6)


def test_gptq_hands_the_error_of_a_column_to_the_next_as_the_paper_says() -> None:
    """Two inputs that are nearly the same: what the first weight rounds away, the second takes up."""
    matrix = np.array([[[1.0, 0.99], [0.99, 1.0]]], np.float32)
    target = np.array([[[0.4, 0.4]]], np.float32)
    given = Problem(
        target=target, scale=np.ones((1, 1, 1), np.float32), zero_point=np.zeros((1, 1, 1), np.float32), highest=3,
        matrix=matrix,
    )  # fmt: skip
    assert given.rounded().tolist() == [[[0.0, 0.0]]]
    assert gptq.solve(given).sum() == 1


def test_gptq_rounds_the_columns_of_the_largest_inputs_first() -> None:
    """In the order of the matrix the second weight would be rounded up, for five times the loss."""
    matrix = np.array([[[0.1, 0.29], [0.29, 1.0]]], np.float32)
    one = np.ones((1, 1, 1), np.float32)
    given = Problem(
        target=np.full((1, 1, 2), 0.4, np.float32), scale=one, zero_point=0 * one, highest=3, matrix=matrix
    )  # fmt: skip
    assert gptq.solve(given).tolist() == [[[2.0, 0.0]]]
    flipped = replace(given, matrix=np.ascontiguousarray(matrix[:, ::-1, ::-1]))
    assert gptq.solve(flipped).tolist() == [[[0.0, 2.0]]]


def test_lazy_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(width=150)
    lazy = gptq.solve(given)
    monkeypatch.setattr(gptq, "_BATCH", 1000)
    assert np.mean(np.abs(lazy - gptq.solve(given)) > 1e-3) < 0.01
    assert given.loss(lazy) < 0.8 * given.loss(given.rounded())


def test_descent_goes_on_until_little_moves() -> None:
    given = problem(rows=40, width=100)
    once = given.loss(coordinate_descent.solve(given, given.rounded(), sweeps=1))
    assert given.loss(coordinate_descent.solve(given, given.rounded())) < 0.97 * once


@pytest.mark.parametrize("seed", range(6))
def test_descent_ends_where_no_single_weight_can_gain_and_near_the_best_of_all(seed: int) -> None:
    given = problem(rows=1, width=5, bits=2, seed=seed)
    levels = coordinate_descent.solve(given, gptq.solve(given))
    here = given.loss(levels)
    grid = (np.arange(4) - given.zero_point.item()) * given.scale.item()
    for j, level in itertools.product(range(5), grid):
        other = levels.copy()
        other[0, 0, j] = level
        assert given.loss(other) >= here * (1 - 1e-4)
    every = (given.loss(np.array(c, np.float32)[None, None]) for c in itertools.product(grid, repeat=5))
    assert here <= 1.6 * min(every)


def test_descent_begins_with_the_first_weight() -> None:
    """Of two equal inputs one weight is to be rounded up."""
    one = np.ones((1, 1, 1), np.float32)
    given = Problem(
        target=np.full((1, 1, 2), 0.4, np.float32), scale=one, zero_point=0 * one, highest=3,
        matrix=np.array([[[1.0, 0.99], [0.99, 1.0]]], np.float32),
    )  # fmt: skip
    assert coordinate_descent.solve(given, given.rounded()).tolist() == [[[1.0, 0.0]]]


def test_descent_never_loses_what_it_was_given() -> None:
    for seed in range(4):
        given = problem(seed=seed, bits=2)
        start = gptq.solve(given)
        assert given.loss(coordinate_descent.solve(given, start)) <= given.loss(start) * (1 + 1e-5)


def test_adaround_stays_within_a_step_of_the_target() -> None:
    given = problem(bits=4)
    levels = adaround.solve(given)
    inside = np.abs(given.target) < 0.9 * np.abs(given.target).max()
    assert (np.abs(levels - given.target) <= given.scale * 1.01)[inside].all()


def test_further_sweeps_of_descent_would_gain_little(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(rows=40, width=100, bits=4)
    found = given.loss(coordinate_descent.solve(given, given.rounded()))
    few = given.loss(coordinate_descent.solve(given, given.rounded(), sweeps=3))
    monkeypatch.setattr(coordinate_descent, "_SETTLED", 0.0)
    end = given.loss(coordinate_descent.solve(given, given.rounded(), sweeps=100))
    assert found <= 1.001 * end < few


def test_the_schedule_of_adaround_falls_from_20_to_2_after_the_warm_up() -> None:
    warm = adaround.warm_up(500)
    exponents = [float(adaround.annealed_exponent(step, 500)) for step in range(warm, 501)]
    assert warm == 100 and exponents[0] == 20 and exponents[-1] == pytest.approx(2)
    assert exponents[200] == pytest.approx(11)
    assert (np.diff(exponents) < 0).all()
