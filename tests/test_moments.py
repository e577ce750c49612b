"""What second moments of few or nearly dependent inputs are worth, and that solvers use what was found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import Array, site

from mixquant_onnx.data import accumulator
from mixquant_onnx.data.accumulator import Accumulator
from mixquant_onnx.data.moments import LEAST_SHRINKAGE, Matrices, Moments, SecondMoments
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows
from mixquant_onnx.quantization.rounding.shrinkage import best_sample_weight, for_inputs, with_best_shrinkage
from mixquant_onnx.quantization.weight import quantize_weight

WIDTH = 48


def moments_of(feeds: list[Array], references: list[Array] | None = None) -> SecondMoments:
    total = Accumulator(split=len(feeds) > 1)
    for k, feed in enumerate(feeds):
        total.add(feed.astype(np.float32)[None], None if references is None else references[k].astype(np.float32)[None])
    found = total.result()
    assert isinstance(found, SecondMoments)
    return found


def dependent(random: np.random.Generator, samples: int, noise: float) -> Array:
    """Inputs of 4 causes, with little of their own."""
    causes = np.random.default_rng(3).standard_normal((4, WIDTH))
    return random.standard_normal((samples, 4)) @ causes + noise * random.standard_normal((samples, WIDTH))


def test_the_target_is_the_damped_answer_of_least_squares() -> None:
    random = np.random.default_rng(0)
    own = dependent(random, 20_000, 1.0)
    changed = own + 0.3 * random.standard_normal(own.shape)
    inputs = moments_of([changed], [own])
    rows = random.standard_normal((1, 5, WIDTH)).astype(np.float32)
    matrix = inputs.matrix[0].astype(np.float64)
    for factor, damping in ((1.0, 0.05), (1e-2, 2 * WIDTH / (WIDTH + 200)), (1e-4, 2 * WIDTH / (WIDTH + 2))):
        assert inputs.cross is not None
        damped = matrix + damping * np.diag(np.diag(matrix))
        wanted = rows[0] + rows[0] @ (inputs.cross[0] - matrix) @ np.linalg.inv(damped)
        np.testing.assert_allclose(replace(inputs, sample_weight=factor).target(rows)[0], wanted, rtol=1e-3, atol=1e-3)


def test_damping_helps_on_inputs_that_were_not_seen() -> None:
    """The cross moments of 60 samples, judged by 20,000 others."""
    random = np.random.default_rng(1)

    def pair(samples: int) -> tuple[Array, Array]:
        own = dependent(random, samples, 1.0)
        return own, own + 0.05 * random.standard_normal(own.shape)

    (own, changed), (other, other_changed) = pair(60), pair(20_000)
    inputs = moments_of([changed], [own])
    rows = random.standard_normal((1, 8, WIDTH)).astype(np.float32)
    target = inputs.target(rows)[0]
    assert inputs.cross is not None
    plain = rows[0] + rows[0] @ np.linalg.solve(inputs.matrix[0].T, (inputs.cross - inputs.matrix)[0].T).T
    damped, undamped = (np.mean((other @ rows[0].T - other_changed @ w.T) ** 2) for w in (target, plain))
    assert damped < 0.3 * undamped


def test_moments_are_drawn_towards_their_diagonal() -> None:
    inputs = moments_of([dependent(np.random.default_rng(2), 100, 0.1)])
    for factor in (1.0, 4.0, 1e6):
        believed = replace(inputs, sample_weight=factor)
        doubt = max(LEAST_SHRINKAGE, WIDTH / (WIDTH + 100 * factor))
        assert believed.shrinkage == pytest.approx(doubt)
        wanted = inputs.matrix[0] * (1 - doubt) + np.diag(np.diag(inputs.matrix[0])) * doubt
        np.testing.assert_allclose(believed.shrunk()[0], wanted, rtol=1e-5, atol=1e-5)
    assert np.linalg.eigvalsh(inputs.shrunk()[0]).min() > 0


def test_no_weight_is_free_though_its_input_was_never_seen() -> None:
    random = np.random.default_rng(4)
    seen = random.standard_normal((2000, WIDTH))
    seen[:, 5] = 0
    inputs = moments_of([seen])
    diagonal = inputs.diagonal()[0]
    assert diagonal[5] == pytest.approx(1e-3 * np.diag(inputs.matrix[0]).mean(), rel=1e-3)
    assert inputs.shrunk()[0, 5, 5] == diagonal[5]
    weight = random.standard_normal((4, WIDTH)).astype(np.float32)
    weight[:, 5] = 40
    made = quantize_weight(located(4), weight, Scheme(bits=4, grid=Granularity(per="channel"), method="gptq"), inputs)
    assert (np.abs(made.dequantize(np.dtype("f4"))[:, 5] - 40) < 30).all()


def located(rows: int) -> WeightTensor:
    return site(np.zeros((rows, WIDTH), np.float32), WeightAxes(p=1, r=1))


def repeated() -> SecondMoments:
    """Samples 64 times each: they count as few."""
    random = np.random.default_rng(5)
    kinds = [dependent(random, 8, 0.5) for _ in range(8)]
    return moments_of([np.repeat(one, 64, axis=0) + 0.01 * random.standard_normal((512, WIDTH)) for one in kinds])


def test_weights_are_solved_with_the_trust_that_was_found() -> None:
    inputs = repeated()
    weight = np.random.default_rng(6).standard_normal((32, WIDTH)).astype(np.float32)
    scheme = Scheme(bits=3, grid=Granularity(per="channel"), method="gptq")
    made = quantize_weight(located(32), weight, scheme, inputs).codes
    known, blind = (
        quantize_weight(located(32), weight, scheme, replace(inputs, sample_weight=factor, halves=None)).codes
        for factor in (1 / 8, 1.0)
    )
    assert (made == known).all()
    assert (made != blind).any()


def test_a_problem_is_posed_anew_only_where_another_trust_does_better() -> None:
    inputs = repeated()
    rows = np.random.default_rng(6).standard_normal((1, 128, WIDTH)).astype(np.float32)
    given = Problem(
        target=inputs.target(rows), scale=np.full((1, 128, 1), 0.4, np.float32),
        zero_point=np.full((1, 1, 1), 7, np.float32), highest=15, matrix=inputs.shrunk(),
    )  # fmt: skip
    factor = best_sample_weight(given, rows, inputs)
    assert factor == 1 / 8
    again, wanted = (
        with_best_shrinkage(given, rows, inputs),
        for_inputs(given, rows, replace(inputs, sample_weight=factor)),
    )
    assert (again.matrix == wanted.matrix).all() and (again.matrix != given.matrix).any()
    assert with_best_shrinkage(given, rows, replace(inputs, sample_weight=factor)) is given
    assert with_best_shrinkage(given, rows, replace(inputs, halves=None)) is given


def test_a_problem_posed_anew_has_the_target_and_the_matrix_of_its_inputs() -> None:
    random = np.random.default_rng(7)
    own = dependent(random, 400, 1.0)
    inputs = moments_of([own + 0.3 * random.standard_normal(own.shape)], [own])
    rows = random.standard_normal((1, 4, WIDTH)).astype(np.float32)
    one = np.ones((1, 1, 1), np.float32)
    given = Problem(target=rows, scale=one, zero_point=one, highest=3, matrix=inputs.matrix)
    again = for_inputs(given, rows, inputs)
    assert (again.target == inputs.target(rows)).all() and (again.target != rows).any()
    assert (again.matrix == inputs.shrunk()).all()
    assert (again.scale, again.zero_point, again.highest) == (one, one, 3)


@pytest.mark.parametrize(("groups", "rows", "tried"), [(1, 256, 64), (1, 32, 32), (4, 64, 16)])
def test_trust_is_found_on_some_rows_with_their_own_scales(
    groups: int, rows: int, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Problem] = []
    solve = gptq.solve

    def watched(problem: Problem) -> Rows:
        seen.append(problem)
        return solve(problem)

    monkeypatch.setattr(gptq, "solve", watched)
    inputs = repeated()
    assert inputs.halves is not None
    many = [replace(i, matrix=np.repeat(i.matrix, groups, 0), mean=np.repeat(i.mean, groups, 0)) for i in inputs.halves]
    inputs = replace(inputs, matrix=np.repeat(inputs.matrix, groups, 0), halves=(many[0], many[1]))
    weights = np.random.default_rng(8).standard_normal((groups, rows, WIDTH)).astype(np.float32)
    scale = np.linspace(0.3, 0.5, rows, dtype=np.float32)[None, :, None]
    zero = np.arange(rows, dtype=np.float32)[None, :, None] % 3 + 6
    best_sample_weight(
        Problem(target=weights, scale=scale, zero_point=zero, highest=15, matrix=inputs.matrix), weights, inputs
    )
    assert len(seen) == 3
    every = rows // tried
    for one in seen:
        assert one.target.shape == (groups, tried, WIDTH) and (one.target == weights[:, ::every]).all()
        assert (one.scale == scale[:, ::every]).all() and (one.zero_point == zero[:, ::every]).all()


@pytest.mark.parametrize("full", [True, False])
def test_samples_multiplied_in_parts_or_at_once_give_the_same_statistics(
    full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are bounded in samples and in bytes; sums over parts are float64."""
    random = np.random.default_rng(7)
    feeds = [(random.standard_normal((3, 40, 5)) + 1).astype(np.float32) for _ in range(6)]
    products: list[int] = []
    plain = accumulator._products

    def counted(left: Matrices, right: Matrices) -> Matrices:
        products.append(left.shape[1])
        return plain(left, right)

    def collected() -> SecondMoments | Moments:
        total = Accumulator(full, split=True)
        for rows in feeds:
            total.add(rows, rows * 2 if full else None)
        found = total.result()
        assert found is not None
        return found

    monkeypatch.setattr(accumulator, "_products", counted)
    whole = collected()
    assert products == ([120] * 4 if full else [])
    monkeypatch.setattr(accumulator, "_BYTES_AT_ONCE", 2 * feeds[0].nbytes)
    products.clear()
    parts = collected()
    assert products == ([40] * 12 if full else [])
    values = np.concatenate(feeds, axis=1).astype(np.float64)
    for found in (whole, parts):
        np.testing.assert_allclose(found.mean, values.mean(axis=1), rtol=1e-5)
        if isinstance(found, SecondMoments):
            square = np.einsum("gnk,gnl->gkl", values, values) / values.shape[1]
            np.testing.assert_allclose(found.matrix, square, rtol=1e-5)
            assert found.cross is not None
            np.testing.assert_allclose(found.cross, 2 * square, rtol=1e-5)
            assert found.halves is not None and [half.samples for half in found.halves] == [120, 120]


@pytest.mark.parametrize("bad", [[np.inf, 1], [np.inf, -np.inf], [np.nan, 1]])
@pytest.mark.parametrize("full", [True, False])
def test_sums_that_are_not_finite_give_no_statistics(full: bool, bad: list[float]) -> None:
    total = Accumulator(full)
    total.add(np.array([[[1, 2], [3, 4]]], np.float32))
    assert total.result() is not None
    total.add(np.array([[bad, [0, 0]]], np.float32))
    with np.errstate(invalid="ignore"):
        assert total.result() is None
