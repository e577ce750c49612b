"""Outputs as arrays, their parts of one scale, and noise over signal, against plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import Array

from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.noise import (
    PartNoise,
    changed_decisions,
    decibels,
    difference,
    noise_share,
    noises_of,
    sqnr_db,
)
from mixquant_onnx.numerics.outputs import Pair, arrays_of, is_numbers, pairs_of
from mixquant_onnx.numerics.parts import Slices, finite_or_zero, parts_of

INF, NAN = math.inf, math.nan


def floats(*values: float) -> Array:
    return np.asarray(values, np.float32)


def pair(reference: list[Array], other: list[Array | None]) -> Pair:
    return Pair(name="y", reference=tuple(reference), other=tuple(other))


def scaled(peaks: Sequence[float], rows: int = 16) -> Array:
    """[rows, slices]: slice k takes values up to peaks[k] in magnitude, half of them negative."""
    signs = np.where(np.arange(rows) % 2, -1.0, 1.0)
    return np.asarray(signs[:, None] * np.linspace(1.0, 0.5, rows)[:, None] * np.array(peaks), np.float32)


def found(arrays: list[Array]) -> list[tuple[int | None, list[int]]]:
    return [(part.axis, part.index.tolist()) for part in parts_of(arrays)]


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_outputs_are_named_by_position_or_name() -> None:
    y, z = floats(1, 2), floats(3)
    by_position = arrays_of([y, None, z])
    assert list(by_position) == ["0", "2"] and by_position["2"] is z
    assert list(arrays_of([y, z], ["a", "b"])) == ["a", "b"]


def test_maps_are_tables_in_the_order_of_their_keys_numbers_before_words() -> None:
    table = arrays_of([[{"b": 1.0, 2: 2.0}, {"a": 3.0, 10: 4.0}]], ["m"])["m"]
    assert table.tolist() == [[2, 0, 0, 1], [0, 4, 3, 0]]
    assert arrays_of([{1: 5.0, 0: 6.0}], ["m"])["m"].tolist() == [[6, 5]]


def test_sequences_of_tensors_are_named_by_place_and_scalars_make_one_array() -> None:
    nested = arrays_of([[floats(1, 2), [floats(3), None]], (1, 2, 3), [], 7], ["s", "t", "e", "n"])
    assert {name: value.tolist() for name, value in nested.items()} == {
        "s[0]": [1, 2], "s[1][0]": [3], "t": [1, 2, 3], "n": 7,
    }  # fmt: skip
    mixed = arrays_of([[{0: 1.0}, floats(2, 3)], [1, floats(4, 5)]], ["s", "t"])
    assert {name: value.tolist() for name, value in mixed.items()} == {
        "s[0]": [[1]], "s[1]": [2, 3], "t[0]": 1, "t[1]": [4, 5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "numeric"),
    [("float16", True), ("float32", True), ("float64", True), (ml_dtypes.bfloat16, True), ("int8", True),
     ("uint8", True), ("int16", True), ("uint16", True), ("int32", False), ("int64", False), ("bool", False),
     ("str", False)],
)  # fmt: skip
def test_floats_and_small_integers_are_numbers(kind: Any, numeric: bool) -> None:
    array = np.zeros(2, kind)
    assert is_numbers(array) is numeric and pair([array], [None]).numbers is numeric


def test_outputs_of_two_models_are_matched_by_name_and_feed() -> None:
    one, two, three = floats(1), floats(2), floats(3)
    pairs = pairs_of([[one, None], [two, one]], [[three, two], [None, three]], ["a", "b"])
    assert [p.name for p in pairs] == ["a", "b"]
    assert pairs[0].reference == (one, two) and pairs[0].other == (three, None)
    empty, kept = pairs[1].reference
    assert (empty.shape, empty.dtype, kept) == ((0,), np.dtype(np.float32), one)
    assert pairs[1].other == (None, three)
    assert [p.name for p in pairs_of([[one]], [[one]])] == ["0"]
    neither = pairs_of([[one], [None]], [[one], [None]])[0]
    assert len(neither.reference) == 1
    lacking = pairs_of([[None]], [[np.array([1, 2])]])[0]
    assert lacking.reference[0].dtype == np.int64 and not lacking.numbers
    with pytest.raises(ValueError, match="zip"):
        pairs_of([[one], [two]], [[one]])


def test_batches_that_are_missing_or_change_their_shape_are_counted() -> None:
    one, two = floats(1), floats(2, 3)
    both = pair([one, two, one, two], [two, two, None, one])
    assert both.changed_shapes == 3 and len(both.same_shape) == 1
    assert both.same_shape[0][0] is two and both.same_shape[0][1] is two


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "signal", "share"), [(0, 0, 0), (0, 4, 0), (1, 4, 0.25), (1, 0, INF), (4, 0.5, 8), (INF, 4, INF)]
)
def test_noise_is_told_as_a_share_of_the_signal(noise: float, signal: float, share: float) -> None:
    part = PartNoise(part=parts_of([floats(1)])[0], signal=signal, noise=noise, largest=1)
    assert noise_share(noise, signal) == part.share == share
    assert part.sqnr_db == decibels(share)


@pytest.mark.parametrize(("share", "db"), [(0, INF), (1, 0), (0.01, 20), (100, -20), (INF, -INF)])
def test_a_share_in_decibels(share: float, db: float) -> None:
    assert decibels(share) == pytest.approx(db)


def test_the_difference_cancels_what_is_not_finite_in_both() -> None:
    reference = floats(1, INF, -INF, NAN, NAN, INF, 0, INF, 5)
    other = floats(3, INF, -INF, NAN, 0, -INF, NAN, 1, 4)
    assert difference(reference, other).tolist() == [2, 0, 0, 0, INF, INF, INF, INF, -1]
    plain = difference(floats(1, 0.1), floats(3, 0.2))
    assert plain.dtype == np.float64 and plain.tolist() == [2, float(floats(0.2)[0]) - float(floats(0.1)[0])]
    assert difference(np.array([200], np.uint8), np.array([100], np.uint8)).tolist() == [-100]
    assert difference(floats(), floats()).shape == (0,)


def test_one_array_in_decibels() -> None:
    reference, other = floats(3, 4, 0), floats(3, 4.5, 0)
    assert sqnr_db(reference, other) == pytest.approx(20)
    assert sqnr_db(reference, reference) == INF
    assert sqnr_db(floats(0, 0), floats(0, 1)) == -INF
    assert sqnr_db(floats(1, NAN), floats(1, 0)) == -INF
    assert sqnr_db(floats(INF, 10), floats(INF, 11)) == pytest.approx(20)
    assert sqnr_db(np.full((3, 3), 1e30, np.float32), np.full((3, 3), 1.1e30, np.float32)) == pytest.approx(20, abs=0.1)
    with pytest.raises(ValueError, match=r"^shapes differ: \(2,\) and \(1,\)$"):
        sqnr_db(floats(1, 2), floats(1))


def test_noise_and_signal_are_summed_over_batches() -> None:
    [part] = noises_of(pair([floats(1, 2), floats(3, 4)], [floats(1, 2.5), floats(5, 4)]))
    assert (part.signal, part.noise, part.largest) == (30, 4.25, 2)
    [falls] = noises_of(pair([floats(1, 2)], [floats(1, -5)]))
    assert (falls.noise, falls.largest) == (49, 7)
    [highest] = noises_of(pair([floats(0.1, 0), floats(0.1, 0)], [floats(0.6, 0.5), floats(0.2, 0.25)]))
    assert highest.largest == pytest.approx(0.5)
    [lower] = noises_of(pair([floats(0.1, 0)], [floats(0, -0.5)]))
    assert lower.largest == 0.5
    [wrong] = noises_of(pair([floats(1, INF)], [floats(1, 2)]))
    assert (wrong.signal, wrong.noise, wrong.largest) == (1, INF, INF)
    with pytest.raises(ValueError, match="zip"):
        noises_of(pair([floats(1), floats(1)], [floats(1)]))


def test_a_batch_whose_shape_differs_is_lost_and_the_others_count() -> None:
    [part] = noises_of(pair([floats(3, 0), floats(4, 0), floats(1, 1)], [floats(3), None, floats(1, 2)]))
    assert (part.signal, part.noise, part.largest) == (27, 26, 1)
    [silent] = noises_of(pair([floats(0, 0), floats()], [floats(0), floats(1)]))
    assert (silent.signal, silent.noise, silent.largest) == (0, 2, 0)
    [quiet] = noises_of(pair([floats(0.5, 0), floats()], [None, floats()]))
    assert (quiet.signal, quiet.noise, quiet.largest) == (0.25, 0.25, 0)


def test_each_part_has_its_own_noise() -> None:
    reference = scaled([100, 500, 100, 3, 2, 1])
    other = reference.copy()
    other[:, 1] += 1
    other[:, 4] -= 0.5
    large, small = noises_of(pair([reference], [other]))
    assert large.part.index.tolist() == [0, 1, 2] and small.part.index.tolist() == [3, 4, 5]
    assert large.signal == pytest.approx(np.square(reference[:, :3], dtype=np.float64).sum())
    assert small.signal == pytest.approx(np.square(reference[:, 3:], dtype=np.float64).sum())
    assert large.noise == pytest.approx(16, rel=1e-3) and small.noise == pytest.approx(4, rel=1e-3)


def test_equal_decisions_are_counted_by_batch() -> None:
    labels = np.array([1, 2, 3])
    decided = pair(
        [labels, labels, labels, labels[:0], labels[:0]],
        [labels + np.array([0, 0, 1]), labels[:2], None, None, labels[:0]],
    )
    assert changed_decisions(decided) == ([2, 0, 0, 0, 0], [3, 3, 3, 1, 0])
    words = pair([np.array(["a", "b"])], [np.array(["a", "c"])])
    assert changed_decisions(words) == ([1], [2])
    with pytest.raises(ValueError, match="zip"):
        changed_decisions(pair([labels, labels], [labels]))


def test_the_relative_noise_is_the_mean_over_parts_and_outputs() -> None:
    reference = scaled([100, 500, 100, 3, 2, 1])
    other = reference * np.array([1.1, 1.1, 1.1, 1.3, 1.3, 1.3], np.float32)
    assert relative_noise([[reference]], [[other]]) == pytest.approx((0.01 + 0.09) / 2, rel=1e-4)
    second = floats(1, 2)
    labels = np.array([1, 2, 3, 4])
    assert relative_noise([[reference, second, labels]], [[other, second * 2, labels + 1]]) == pytest.approx(
        0.525, rel=1e-4
    )
    assert relative_noise([[floats(0.1), floats(0.1)]], [[floats(0.2), floats(0.1)]]) == pytest.approx(0.5)
    silent = floats(0, 0)
    assert relative_noise([[silent, second]], [[silent + 1, second * 2]]) == 1
    assert relative_noise([[silent]], [[silent + 1]]) == 0
    assert relative_noise([[second]], [[second]]) == 0
    assert relative_noise([[second]], [[second * NAN]]) == INF


def test_where_all_outputs_are_decisions_those_that_changed_are_the_noise() -> None:
    labels = np.array([1, 2, 3, 4])
    changed = labels + np.array([0, 0, 0, 1])
    assert relative_noise([[labels], [labels]], [[changed], [labels]]) == 1 / 8
    assert relative_noise([[labels, labels]], [[changed, labels]]) == 1 / 8
    assert relative_noise([[labels[:0]]], [[labels[:0]]]) == 1
    assert relative_noise([[labels[:1]]], [[labels[:1]]]) == 0


# --- parts -----------------------------------------------------------------------------------------------------------


def test_slices_are_split_where_the_scale_jumps_and_not_below() -> None:
    assert found([scaled([100, 10, 100, 10])]) == [(None, [])]
    assert found([scaled([4000, 100, 10, 4000, 100, 10])]) == [(1, [0, 3]), (1, [1, 4]), (1, [2, 5])]
    assert found([scaled([105, 10, 105, 10])]) == [(1, [0, 2]), (1, [1, 3])]
    assert found([scaled([95, 10, 95, 10])]) == [(None, [])]
    assert found([scaled([4000, 300, 20, 4000, 300, 20])]) == [(1, [0, 3]), (1, [1, 4]), (1, [2, 5])]
    first, second = parts_of([scaled([105, 10, 105, 10]), 2 * scaled([105, 10, 105, 10])])
    assert (first.peak, second.peak, first.scores, second.scores) == (210, 20, False, False)


def test_the_largest_magnitude_may_be_negative_and_in_any_batch() -> None:
    values = -np.abs(scaled([105, 10, 105, 10]))
    first, second = parts_of([values / 2, values, values / 4])
    assert (first.index.tolist(), first.peak, second.peak) == ([0, 2], 105, 10)
    assert parts_of([values])[0].scores is False


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_any_axis_but_the_first_is_split(axis: int) -> None:
    values = np.moveaxis(np.tile(scaled([500, 20, 500, 20], 64).reshape(4, 4, 4, 4), 1), 3, axis)
    assert found([values]) == [(axis, [0, 2]), (axis, [1, 3])]
    assert found([np.moveaxis(values, axis, 0)]) == [(None, [])]
    assert found([values, values[:2]]) == [(axis, [0, 2]), (axis, [1, 3])]


def test_of_two_axes_the_one_with_the_largest_jump_is_split() -> None:
    values = scaled([1] * 16, 16).reshape(16, 4, 4) * 5
    rows, columns = np.array([30, 1, 30, 1])[:, None], np.array([200, 1, 200, 1])
    assert [axis for axis, _ in found([(values * rows * columns).astype(np.float32)])] == [2, 2]
    assert [axis for axis, _ in found([(values * rows.T * columns[:, None]).astype(np.float32)])] == [1, 1]
    assert [axis for axis, _ in found([(values * rows * rows.T).astype(np.float32)])] == [1, 1]


def test_the_scale_of_a_slice_is_known_from_sixteen_values() -> None:
    peaks = [105, 10, 105, 10]
    assert len(found([scaled(peaks, 16)])) == 2
    assert len(found([scaled(peaks, 15)])) == 1
    assert len(found([scaled(peaks, 8), scaled(peaks, 8)])) == 2
    assert len(found([scaled(peaks, 8), scaled(peaks, 7)])) == 1


def test_outputs_of_changing_size_or_rank_stay_whole() -> None:
    values = scaled([105, 10, 105, 10])
    assert found([values, scaled([105, 10, 105])]) == [(None, [])]
    assert found([values, values[0]]) == [(None, [])]
    assert found([values.astype(np.int16)]) == [(None, [])]
    assert found([np.zeros((16, 0), np.float32)]) == [(None, [])]
    changing = [np.tile(values[:, None], (1, n, 1)) for n in (2, 3)]
    assert found(changing) == [(2, [0, 2]), (2, [1, 3])]


def test_few_slices_are_outliers_and_not_a_part() -> None:
    large, small = [105.0] * 63, [10.0] * 63
    assert found([scaled([*large, 10])]) == [(None, [])]
    assert found([scaled([*large[:62], 10, 10])]) == [(1, list(range(62))), (1, [62, 63])]
    assert found([scaled([*small, 105])]) == [(None, [])]
    assert found([scaled([*small[:62], 105, 105])]) == [(1, [62, 63]), (1, list(range(62)))]
    three = [*[2000.0], *[105.0] * 31, *[10.0] * 32]
    assert found([scaled(three)]) == [(1, list(range(32))), (1, list(range(32, 64)))]
    assert [part.peak for part in parts_of([scaled(three)])] == [2000, 10]


def test_few_large_slices_beside_scores_are_a_part() -> None:
    scores = np.abs(scaled([0.9] * 63))
    scores[0, 0], scores[1, 0] = 1, 0
    both = np.concatenate([scaled([300]), scores], 1)
    assert found([both]) == [(1, [0]), (1, list(range(1, 64)))]
    boxes, rest = parts_of([both])
    assert (boxes.scores, rest.scores) == (False, True) and rest.peak == 1
    few = np.concatenate([scaled([300] * 63), scores[:, :1]], 1)
    assert found([few]) == [(1, list(range(63))), (1, [63])]


@pytest.mark.parametrize(("peak", "apart"), [(0.11, True), (0.09, False)])
def test_scores_that_are_all_background_are_no_part(peak: float, apart: bool) -> None:
    both = np.concatenate([scaled([300] * 4), np.abs(scaled([peak] * 4))], 1)
    assert (len(found([both])) == 2) is apart
    at_bound = np.concatenate([np.full((16, 4), 300.0), np.full((16, 4), 0.1)], 1)
    assert len(found([at_bound])) == 2
    signed = np.concatenate([scaled([300] * 4), scaled([peak] * 4)], 1)
    assert len(found([signed])) == 2


def test_scores_alone_stay_whole() -> None:
    scores = np.abs(scaled([1.0, 0.05, 1.0, 0.05]))
    [whole] = parts_of([scores])
    assert (whole.axis, whole.scores, whole.peak, whole.words) == (None, True, 1, "")
    assert whole.of(scores) is scores and whole.index.tolist() == [] and whole.index.dtype == np.int64
    assert [part.scores for part in parts_of([np.abs(scaled([1.01, 0.1005, 1.01, 0.1005]))])] == [False, True]
    assert parts_of([np.abs(scaled([1.0, 0.5])) - np.float32(0.3)])[0].scores is False
    assert parts_of([scores, -scores])[0].scores is False
    assert parts_of([-scores, scores])[0].scores is False
    assert parts_of([np.array([0, 1], np.uint8)])[0].scores is False
    assert parts_of([floats()])[0].peak == 0 and parts_of([floats(0, 1)])[0].scores
    assert parts_of([floats(-3, 2)])[0].peak == 3 and parts_of([floats(-3, 2), floats(1)])[0].peak == 3


def test_what_is_below_the_rounding_of_the_largest_value_is_no_part() -> None:
    eps = float(np.finfo(np.float32).eps)
    assert len(found([scaled([1e3, 1e3, 80 * eps * 1e3, 80 * eps * 1e3])])) == 2
    assert len(found([scaled([1e3, 1e3, 50 * eps * 1e3, 50 * eps * 1e3])])) == 1
    assert len(found([scaled([1e3, 1e3, 0, 0])])) == 1
    assert len(found([scaled([1e3, 1e3, 1, 1, 0, 0])])) == 2
    scores = np.abs(scaled([0.9, 0.9]))
    assert found([np.concatenate([scaled([1e6, 1e6, 20, 20]), scores], 1)]) == [(1, [0, 1]), (1, [2, 3, 4, 5])]


def test_values_that_are_not_finite_have_no_scale() -> None:
    values = scaled([105, 10, 105, 10])
    values[3, 1], values[4, 1], values[5, 3] = INF, NAN, -INF
    first, second = parts_of([values])
    assert (first.index.tolist(), first.peak, second.index.tolist(), second.peak) == ([0, 2], 105, [1, 3], 10)
    assert finite_or_zero(floats(1, NAN, INF, -INF)).tolist() == [1, 0, 0, 0]
    half = finite_or_zero(np.array([1, NAN], np.float16))
    assert half.dtype == np.float16 and half.tolist() == [1, 0]
    for same in (floats(1, 2), floats(), np.array([1, 2]), np.array([], np.int64), np.array(["a"])):
        assert finite_or_zero(same) is same


@pytest.mark.parametrize(
    ("axis", "index", "words"),
    [(1, [4], "[:, 4]"), (1, [4, 5, 6], "[:, 4-6]"), (2, [0, 2, 3], "[:, :, 0,2-3]"), (1, [0, 2, 4], "[:, 0,2,4]"),
     (1, [0, 2, 4, 6, 7], "[:, 0,2,…,6-7]"), (1, [0, 2, 4, 6, 8], "[:, 0,2,…,8]")],
)  # fmt: skip
def test_slices_are_told_in_runs(axis: int, index: list[int], words: str) -> None:
    part = Slices(axis=axis, index=np.array(index), peak=1, scores=False)
    assert part.words == words
    values = np.arange(200).reshape(2, 10, 10)
    assert (part.of(values) == (values[:, index] if axis == 1 else values[:, :, index])).all()


def test_a_batch_in_which_nothing_is_found_is_left_out() -> None:
    """As of a detector: no rows in one batch, many in another."""
    boxes = np.random.default_rng(3).uniform(0, 300, (40, 4)).astype(np.float32)
    scores = np.random.default_rng(4).uniform(0, 1, (40, 1)).astype(np.float32)
    many, none = np.concatenate([boxes, scores], 1), np.zeros((0, 5), np.float32)
    assert relative_noise([[many], [none]], [[many + 0.1], [none]]) == relative_noise([[many]], [[many + 0.1]])
