"""What every quantization method promises, and what each of them is for, against plain implementations."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Array

from mixquant_onnx.numerics.granularity import ALL_BITS
from mixquant_onnx.numerics.integers import encode, levels
from mixquant_onnx.quantization.methods import METHODS, method
from mixquant_onnx.quantization.ranges import exact_errors as candidates
from mixquant_onnx.quantization.ranges import hqq, minmax, mse

BOTH = pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])


def normal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape)


def heavy_tailed(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_t(2, shape)


ROWS: dict[str, Array] = {
    "zeros": np.zeros((3, 8)),
    "zeros among others": np.vstack([np.zeros(40), normal(40), np.zeros(40)]),
    "constant": np.repeat([[0.3], [-0.3], [7.0]], 8, axis=1),
    "one weight": np.array([[0.7], [-0.2], [0.0]]),
    "negative": -np.abs(normal(5, 33)),
    "positive": np.abs(normal(5, 33)),
    "skewed": np.exp(normal(20, 500)) - 1,
    "outliers": normal(4, 50) + 40 * np.eye(4, 50) - 70 * np.eye(4, 50, 1),
    "long": normal(2, 3000) + 40 * np.eye(2, 3000),
    "scales below float16": normal(3, 32) * 1e-6,
}


def by_hand(rows: Array, scale: Array, zero: Array, bits: int) -> Array:
    """Squared error of each row, rounded to nearest with what is stored."""
    codes = encode(rows, scale, np.broadcast_to(zero, len(rows)), bits).astype(np.float64)
    back = (codes - zero.reshape(-1, 1)) * scale.astype(np.float64)[:, None]
    return np.asarray(np.sum((rows - back) ** 2, axis=1))


def errors_of(name: str, rows: Array, bits: int, symmetric: bool) -> Array:
    return by_hand(rows, *method(name).ranges(rows, bits, symmetric), bits)


@BOTH
@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("name", METHODS)
def test_the_contract_of_a_method(name: str, case: str, symmetric: bool) -> None:
    rows = ROWS[case].astype(np.float32)
    rows.flags.writeable = False
    for bits, error in zip(ALL_BITS, method(name).errors(rows, ALL_BITS, symmetric), strict=True):
        scale, zero = method(name).fit(rows, bits, symmetric)
        assert scale.shape == (len(rows),) and scale.dtype == minmax.fit(rows, bits, symmetric)[0].dtype
        assert np.isfinite(scale).all() and (scale > 0).all() and zero.dtype == np.uint8
        assert zero.tolist() == [1 << (bits - 1)] if symmetric else zero.shape == scale.shape
        codes = encode(rows, scale, np.broadcast_to(zero, len(rows)), bits)
        assert max(codes.max(), zero.max()) <= levels(bits) and ((codes == zero[:, None]) | (rows != 0)).all()
        assert error == pytest.approx(by_hand(rows, scale, zero, bits).sum(), rel=1e-4, abs=1e-30)


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_fitted_one_by_one(name: str) -> None:
    rows = np.vstack([normal(40, 900) * np.geomspace(1, 30, 40)[:, None], heavy_tailed(310, 900)]).astype(np.float32)
    scale, zero = method(name).fit(rows, 3, False)
    for k in (0, 36, 40, 291, 349):
        assert [scale[k], zero[k]] == [value[0] for value in method(name).fit(rows[k : k + 1], 3, False)]


@BOTH
@pytest.mark.parametrize("case", ROWS)
def test_mse_is_on_no_row_worse_than_minmax(case: str, symmetric: bool) -> None:
    rows = ROWS[case].astype(np.float32)
    for bits in ALL_BITS:
        mse, start = (errors_of(name, rows, bits, symmetric) for name in ("mse", "minmax"))
        assert (mse <= start * (1 + 1e-6)).all(), bits


SMALLEST = {2: 0.1, 3: 0.2, 4: 0.35, 5: 0.6, 6: 0.8, 8: 0.95}


def least_error(rows: Array, bits: int, symmetric: bool) -> Array:
    """Of each row, over 400 scales (from a SMALLEST share of min-max) and the zero points that clip least."""
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    top, half = levels(bits), 1 << (bits - 1)
    widest = np.maximum(-low, high) / (half - 1) if symmetric else (high - low) / top
    best = np.full(len(rows), np.inf)
    for share in np.geomspace(SMALLEST[bits], 1.05, 400):
        step = widest * share
        first = np.full(len(rows), half) if symmetric else np.clip(np.floor(top - high / step), 0, top)
        last = np.full(len(rows), half) if symmetric else np.clip(np.ceil(-low / step), 0, top)
        for more in range(int((last - first).max()) + 1):
            zero = np.minimum(first + more, last)[:, None]
            back = np.clip(np.rint(rows / step[:, None]), -zero, top - zero) * step[:, None]
            best = np.minimum(best, np.sum((rows - back) ** 2, axis=1))
    return best


@BOTH
@pytest.mark.parametrize("bits", SMALLEST)
def test_mse_is_as_good_as_a_dense_search(bits: int, symmetric: bool) -> None:
    for width in (24, 300):
        kinds = [normal(8, width), heavy_tailed(8, width), np.abs(normal(8, width)) - 0.1, normal(8, width) ** 3 + 0.5]
        for rows in (values.astype(np.float32) * 10 for values in kinds):
            assert errors_of("mse", rows, bits, symmetric).sum() <= least_error(rows, bits, symmetric).sum() * 1.01


@pytest.mark.parametrize(("shape", "bits"), [((3, 2000), 2), ((3, 2000), 5), ((1, 40_000), 4), ((1, 40_000), 8)])
def test_prefix_sums_give_the_errors_of_direct_evaluation(shape: tuple[int, int], bits: int) -> None:
    rows = heavy_tailed(*shape).astype(np.float32)
    rows[:, 7:11] = 0
    random = np.random.default_rng(0)
    scale = random.uniform(0.01, 3, (50, shape[0])).astype(np.float32)
    zero = random.integers(0, levels(bits) + 1, scale.shape).astype(np.float32)
    fast = candidates.PrefixSums(rows).errors(scale, zero, levels(bits))
    np.testing.assert_allclose(fast, candidates.Direct(rows).errors(scale, zero, levels(bits)), rtol=1e-4)
    np.testing.assert_allclose(fast[7], by_hand(rows, scale[7], zero[7].astype(np.uint8), bits), rtol=1e-5)


def test_no_range_that_is_left_out_is_within_the_error() -> None:
    rows = np.vstack([heavy_tailed(5, 300), np.abs(normal(5, 300))]).astype(np.float32)
    allowed = np.sum(rows.astype(np.float64) ** 2, axis=1) * np.linspace(0.01, 0.4, 10)
    sides = np.stack([-rows, rows])
    reach = np.maximum(sides.max(axis=2), 0)
    for bounds in (candidates.Direct(rows).innermost(allowed), candidates.PrefixSums(rows).innermost(allowed)):
        clipped = np.sum(np.maximum(sides - bounds[:, :, None] * 0.999, 0) ** 2, axis=2)
        assert ((clipped >= allowed) | (bounds <= reach / 1000)).all() and (bounds <= reach).all()


@BOTH
def test_long_rows_are_fitted_alike_in_both_ways(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (np.vstack([heavy_tailed(3, 2500), normal(3, 2500)]) * 5).astype(np.float32)
    found = []
    for limit in (0, 10**9):
        monkeypatch.setattr(candidates, "WEIGHTS_PER_EDGE", limit)
        found.append([errors_of("mse", rows, bits, symmetric).sum() for bits in (2, 4, 6)])
    np.testing.assert_allclose(found[0], found[1], rtol=0.01)


def test_mse_judges_every_weight_of_a_long_row() -> None:
    rows = normal(1, 50_001).astype(np.float32)
    rows[0, 31_337] = 60  # At no round place: a search of every n-th weight would clip it.
    for bits in (5, 6, 7):
        scale = (np.linspace(4, 60, 40, dtype=np.float32) - rows.min()) / np.float32(levels(bits))
        zero = np.rint(-rows.min() / scale).astype(np.uint8)
        found = [by_hand(rows, scale[k : k + 1], zero[k : k + 1], bits)[0] for k in range(40)]
        assert errors_of("mse", rows, bits, False)[0] <= min(found) * 1.01


def norms_of(name: str, rows: Array, bits: int, symmetric: bool) -> Array:
    scale, zero = method(name).fit(rows, bits, symmetric)
    return hqq.norm_errors(rows, scale, zero, bits)


@BOTH
@pytest.mark.parametrize("case", ROWS)
def test_hqq_is_on_no_row_worse_than_its_start_in_its_own_norm(case: str, symmetric: bool) -> None:
    rows = ROWS[case].astype(np.float32)
    for bits in ALL_BITS:
        assert (norms_of("hqq", rows, bits, symmetric) <= norms_of("minmax", rows, bits, symmetric)).all()


@BOTH
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq_has_a_smaller_norm_than_minmax_where_tails_are_heavy(bits: int, symmetric: bool) -> None:
    rows = heavy_tailed(40, 512).astype(np.float32)
    found, start = (norms_of(name, rows, bits, symmetric) for name in ("hqq", "minmax"))
    assert found.sum() < 0.85 * start.sum() and np.mean(found < start) > 0.5


def test_hqq_moves_the_zero_points_of_skewed_rows() -> None:
    rows = np.random.default_rng(0).exponential(size=(40, 512)).astype(np.float32) - 1
    assert np.mean(hqq.fit(rows, 2, False)[1] != minmax.fit(rows, 2, False)[1]) > 0.5


def test_the_norm_of_errors_is_the_plain_sum() -> None:
    rows = heavy_tailed(4, 60).astype(np.float32)
    scale, zero = np.full(4, 0.5, np.float16), np.array([0, 3, 7, 1], np.uint8)
    back = (encode(rows, scale, zero, 3) - zero[:, None].astype(np.float64)) * 0.5
    np.testing.assert_allclose(hqq.norm_errors(rows, scale, zero, 3), np.sum(np.abs(rows - back) ** 0.7, axis=1), 1e-5)


def test_shrinkage_is_the_published_formula() -> None:
    errors = np.array([-9, -0.5, -1e-3, 0.2, 0.4, 0.6, 3])
    for beta in (1.0, 3.0, 10.0):
        wanted = np.sign(errors) * np.maximum(np.abs(errors) - np.abs(errors) ** -0.3 / beta, 0)
        np.testing.assert_allclose(hqq.shrink(errors.astype(np.float32), beta), wanted, rtol=1e-5, atol=1e-6)
    assert hqq.shrink(np.zeros(1, np.float32), 3.0).tolist() == [0]


def test_scales_round_up_as_they_are_stored() -> None:
    scale = np.geomspace(2.0**-14, 65000, 999).astype(np.float32)
    rounded = candidates.stored_scale(scale, True)
    below = np.nextafter(rounded.astype(np.float16), np.float16(0))
    assert (rounded == rounded.astype(np.float16)).all() and (rounded >= scale).all() and (below < scale).all()
    assert candidates.stored_scale(np.array([1e-9, 1e9], np.float32), True).tolist() == [2.0**-14, 65408]


def test_an_estimate_of_large_tensors_is_near_the_full_search() -> None:
    random = np.random.default_rng(11)
    spread = random.lognormal(0, 1, (600, 1))
    rows = (random.standard_t(4, (600, 512)) * spread).astype(np.float32)
    full = mse.errors(rows, (2, 4, 8), False)
    estimated = mse.estimated_errors(rows, (2, 4, 8), False)
    np.testing.assert_allclose(estimated, full, rtol=0.04)
    assert estimated != full
    assert mse.estimated_errors(rows[:20], (4,), False) == mse.errors(rows[:20], (4,), False)
