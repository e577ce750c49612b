"""The shrinkage of second moments, cross-validated between halves of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import text

from mixquant_onnx.data.accumulator import Accumulator
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.data.noise import Data
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.quadratic import quadratic_error
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows
from mixquant_onnx.quantization.rounding.shrinkage import best_sample_weight, for_inputs

WIDTH = 96


def inputs_of(repeats: int, kinds: int, seed: int) -> list[Rows]:
    """Feeds [1, n, WIDTH] of samples with a few common causes, each `repeats` times with little of its own."""
    random = np.random.default_rng(seed)
    causes = np.random.default_rng(99).standard_normal((8, WIDTH))
    feeds = []
    for _ in range(8):
        one = random.standard_normal((kinds, 8)) @ causes + random.standard_normal((kinds, WIDTH))
        many = np.repeat(one, repeats, axis=0)
        feeds.append((many + 0.01 * random.standard_normal(many.shape)).astype(np.float32)[None])
    return feeds


def moments_of(feeds: list[Rows]) -> SecondMoments:
    total = Accumulator(split=True)
    for feed in feeds:
        total.add(feed, feed)
    found = total.result()
    assert isinstance(found, SecondMoments)
    return found


def question(seed: int) -> tuple[Problem, Rows]:
    """Weights, and the problem of putting them on a grid of 16 levels."""
    rows = np.random.default_rng(seed).standard_normal((1, 64, WIDTH)).astype(np.float32)
    scale, zero_point = np.full((1, 64, 1), 0.4, np.float32), np.full((1, 1, 1), 7, np.float32)
    matrix = np.eye(WIDTH, dtype=np.float32)[None]
    return Problem(target=rows, scale=scale, zero_point=zero_point, highest=15, matrix=matrix), rows


def test_repeated_samples_count_less_and_that_helps_on_others() -> None:
    problem, rows = question(1)
    inputs = moments_of(inputs_of(repeats=64, kinds=8, seed=2))
    assert best_sample_weight(problem, rows, inputs) < 1
    others = moments_of(inputs_of(repeats=1, kinds=4000, seed=3)).matrix
    errors = [
        quadratic_error(gptq.solve(for_inputs(problem, rows, replace(inputs, sample_weight=t))) - rows, others)
        for t in (best_sample_weight(problem, rows, inputs), 1.0)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_independent_samples_count_more() -> None:
    assert best_sample_weight(*question(1), moments_of(inputs_of(repeats=1, kinds=24, seed=2))) > 1


@pytest.mark.parametrize("feeds", [1, 2, 5])
def test_halves_are_what_the_whole_is_made_of(feeds: int) -> None:
    given = inputs_of(repeats=1, kinds=30, seed=4)[:feeds]
    whole = moments_of(given)
    together = np.concatenate(given, axis=1)[0].astype(np.float64)
    assert np.allclose(whole.matrix[0], together.T @ together / len(together), rtol=1e-4, atol=1e-4)
    assert (whole.halves is None) == (feeds == 1) and whole.samples == 30 * feeds
    if whole.halves is not None:
        one, two = whole.halves
        assert one.samples + two.samples == whole.samples
        first = given[0][0].astype(np.float64)
        if feeds == 2:
            assert np.allclose(one.matrix[0], first.T @ first / 30, rtol=1e-4, atol=1e-4)
        assert not np.allclose(one.matrix, two.matrix)


def test_without_halves_or_with_many_samples_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = moments_of(inputs_of(repeats=1, kinds=3000, seed=2))
    monkeypatch.setattr(gptq, "solve", None)
    assert (
        best_sample_weight(*question(1), inputs) == best_sample_weight(*question(1), replace(inputs, halves=None)) == 1
    )


def test_data_in_one_batch_is_cut_so_that_there_are_halves() -> None:
    model = text(
        "g (float[N,8] x, float[8,4] w) => (float[N,4] y) { y = MatMul (x, w) }", w=np.ones((8, 4), np.float32)
    )
    rows = np.random.default_rng(0).standard_normal((21, 8)).astype(np.float32)
    calibration = Calibration(model, find(model, 1).sites, Data(feeds=({"x": rows},), labels=None, axes={"x": 0}))
    assert [len(feed["x"]) for feed in calibration.feeds] == [11, 10]
    own = calibration.float_stream()
    halves = calibration.collect(["w"], own, own.fork())["w"].halves
    assert halves is not None and [half.samples for half in halves] == [11, 10]


def test_output_loss_ranks_levels_as_the_outputs_do() -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((1, 6, WIDTH)).astype(np.float32)
    own, changed = (random.standard_normal((1, 300, WIDTH)).astype(np.float32) for _ in range(2))
    total = Accumulator()
    total.add(changed, own)
    inputs = total.result()
    assert isinstance(inputs, SecondMoments)
    tries = [rows + 0.1 * random.standard_normal(rows.shape).astype(np.float32) for _ in range(4)]
    outputs = [np.mean(np.sum((own[0] @ rows[0].T - changed[0] @ one[0].T) ** 2, axis=1)) for one in tries]
    losses = [inputs.output_loss(rows, one) for one in tries]
    assert np.allclose(np.diff(outputs), np.diff(losses), rtol=1e-2)
