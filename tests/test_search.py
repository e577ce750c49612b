"""Rows, rounding, errors and the rule that picks bits, against implementations that are slow and plain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import LAYOUTS, PROPERTIES, Array, site, weight
from hypothesis import given
from hypothesis import strategies as st

from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.numerics import rows as g
from mixquant_onnx.numerics.granularity import ALL_BITS, Granularity, WeightAxes
from mixquant_onnx.numerics.integers import encode, levels, storable_scale
from mixquant_onnx.numerics.rounding_error import CHUNK, row_errors, squared_errors
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.planning.allocators.qem import allocate, choose
from mixquant_onnx.planning.error_table import Candidate, ErrorRow, site_errors
from mixquant_onnx.quantization.methods import METHODS, method
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.weight import quantization_error, quantize_weight

GRIDS = [
    Granularity(per="tensor"),
    Granularity(per="channel"),
    Granularity(per="block", block=5),
    Granularity(per="block", block=8),
]
FLOAT32 = np.dtype(np.float32)
LARGE = np.float32(100)
"""Makes the scales of all groups large enough for float16."""


def group_of(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> Array:
    """For each weight the number of its group, straight from the words in DESIGN.md."""
    axes = list(range(len(shape)))
    row = axes[: layout.p] + axes[layout.p + layout.r : layout.p + layout.r + layout.q]
    reduced = axes[layout.p : layout.p + layout.r]
    if grid.per == "block":
        row += axes[layout.p + layout.r + layout.q :]
    result = np.zeros(shape, np.int64)
    for place in itertools.product(*map(range, shape)):
        key = 0
        for axis in row if grid.per != "tensor" else []:
            key = key * shape[axis] + place[axis]
        if grid.block is not None:
            run = 0
            for axis in reduced:
                run = run * shape[axis] + place[axis]
            key = key * 10_000 + run // grid.block
        result[place] = key
    return result


def plain_minmax(values: Array, groups: Array, bits: int, symmetric: bool) -> tuple[Array, Array]:
    """(dequantized weights, scale of each weight), group by group, with scales as float16 rounded up."""
    result, steps = np.zeros_like(values), np.zeros_like(values)
    for group in np.unique(groups):
        of = groups == group
        low, high = min(0.0, float(values[of].min())), max(0.0, float(values[of].max()))
        step = max(-low, high) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
        half = np.float16(step)
        scale = np.float32(np.nextafter(half, np.float16(np.inf)) if half < np.float32(step) else half)
        zero = 2 ** (bits - 1) if symmetric else round(float(np.float32(-low) / scale))
        codes = [min(max(round(float(x / scale)) + zero, 0), 2**bits - 1) for x in values[of]]
        result[of] = (np.array(codes, np.float32) - zero) * scale
        steps[of] = scale
    return result, steps


layouts = st.builds(
    WeightAxes, p=st.integers(0, 2), r=st.integers(0, 2), q=st.integers(0, 2), s=st.integers(0, 2)
).filter(lambda layout: layout.p + layout.r + layout.q + layout.s > 0)
grids = st.sampled_from([Granularity(per="tensor"), Granularity(per="channel")]) | st.builds(
    lambda n: Granularity(per="block", block=n), st.integers(2, 7)
)


@PROPERTIES
@given(layout=layouts, grid=grids, data=st.data())
def test_rows_hold_the_groups_and_go_back_to_the_tensor(
    layout: WeightAxes, grid: Granularity, data: st.DataObject
) -> None:
    axes = layout.p + layout.r + layout.q + layout.s
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes)))
    tensor = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float32).reshape(shape)
    rows = g.to_rows(tensor, layout, grid)
    groups = group_of(shape, layout, grid)
    wanted = {frozenset(tensor[groups == group].tolist()) for group in np.unique(groups)}
    assert {frozenset(row[row > 0].tolist()) for row in rows} == wanted and len(rows) == len(wanted)
    np.testing.assert_array_equal(g.from_rows(rows, shape, layout, grid), tensor)
    numbers = np.arange(len(rows), dtype=np.float32)
    params = g.params_from_rows(numbers, shape, layout, grid)
    assert params.shape == g.params_shape(shape, layout, grid)
    np.testing.assert_array_equal(g.params_to_rows(params, len(rows)), numbers)
    each = np.broadcast_to(g.expand_params(params, shape, layout, grid), shape)
    np.testing.assert_array_equal(g.to_rows(each + 1, layout, grid).max(axis=1), numbers + 1)


def test_a_block_that_would_hold_a_whole_row_is_a_channel() -> None:
    layout = WeightAxes(r=1, q=1)
    assert g.effective_grid((24, 7), layout, Granularity(per="block", block=24)) == Granularity(per="channel")
    assert g.effective_grid((24, 7), layout, Granularity(per="block", block=23)) == Granularity(per="block", block=23)


@PROPERTIES
@given(bits=st.sampled_from(ALL_BITS), zero=st.integers(0, 255), seed=st.integers(0, 99))
def test_codes_are_rounded_half_to_even_and_saturated(bits: int, zero: int, seed: int) -> None:
    zero = zero % (levels(bits) + 1)
    halves = np.random.default_rng(seed).integers(-600, 600, (2, 9)).astype(np.float32) / 2
    codes = encode(halves * np.float32(0.25), np.full(2, 0.25, np.float16), np.full(2, zero, np.uint8), bits)
    wanted = [[min(max(round(float(x)) + zero, 0), 2**bits - 1) for x in row] for row in halves]
    assert codes.dtype == np.uint8 and codes.tolist() == wanted


@pytest.mark.parametrize("shape", [(1, CHUNK + 777), (3, CHUNK + 5), (CHUNK // 8, 17), (4, 1)])
def test_squared_errors_are_those_of_a_plain_sum(shape: tuple[int, int]) -> None:
    rows = weight(*shape).astype(np.float64)
    step = np.linspace(0.01, 0.02, shape[0])[:, None].astype(np.float32)
    wanted = [np.sum((rows - np.rint(rows / s) * s) ** 2) for s in (step, step * np.float32(3))]
    assert squared_errors(rows.astype(np.float32), [step[:, 0], step[:, 0] * 3]) == pytest.approx(wanted, rel=1e-4)


def test_row_errors_saturate() -> None:
    rows = weight(3, CHUNK + 5).astype(np.float64)
    step, low, high = np.array([[0.01], [0.02], [0.03]], np.float32), np.full(3, -7.0), np.array([4.0, 6, 9])
    errors = (rows - np.clip(np.rint(rows / step), low[:, None], high[:, None]) * step) ** 2
    got = row_errors(rows.astype(np.float32), step[:, 0], low.astype(np.float32), high.astype(np.float32))
    np.testing.assert_allclose(got, errors.sum(axis=1), rtol=1e-4)


@PROPERTIES
@given(st.lists(st.floats(2.0**-14, 60000, width=32), min_size=1, max_size=5))
def test_a_scale_is_stored_as_the_next_float16_above(values: list[float]) -> None:
    scale = np.array(values, np.float32)
    half = storable_scale(scale)
    assert half.dtype == np.float16
    assert (half >= scale).all() and (np.nextafter(half, np.float16(0)) < scale).all()


@pytest.mark.parametrize("value", [2.0**-15, 65504.0])
def test_a_scale_that_float16_cannot_hold_stays_float32(value: float) -> None:
    scale = np.array([value, 1], np.float32)
    assert storable_scale(scale).dtype == np.float32
    np.testing.assert_array_equal(storable_scale(scale), scale)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("bits", ALL_BITS)
def test_minmax_is_the_plain_one_and_off_by_half_a_step_at_most(bits: int, grid: Granularity, symmetric: bool) -> None:
    for name, (layout, shape) in LAYOUTS.items():
        values = LARGE * weight(*shape)
        q = quantize_weight(site(values, layout), values, Scheme(bits=bits, grid=grid, symmetric=symmetric))
        wanted, steps = plain_minmax(values, group_of(shape, layout, grid), bits, symmetric)
        if name == "one weight":  # which is on a grid of its own
            assert abs(values - q.dequantize(FLOAT32)) <= abs(values - wanted)
            continue
        np.testing.assert_allclose(q.dequantize(FLOAT32), wanted, rtol=1e-6, atol=0)
        assert (np.abs(values - q.dequantize(FLOAT32)) <= steps * 0.5001).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_the_error_a_method_reports_is_that_of_the_weights(name: str, grid: Granularity, symmetric: bool) -> None:
    for layout, shape in LAYOUTS.values():
        values = LARGE * weight(*shape)
        values.flags.writeable = False
        options = SearchOptions(grids=(grid,), method=name, symmetric=symmetric)
        table = site_errors(site(values, layout), values, options)
        assert table == site_errors(site(values, layout), values, options)
        assert [cell.scheme.bits for cell in table.candidates] == list(ALL_BITS)
        for cell in table.candidates:
            q = quantize_weight(site(values, layout), values, cell.scheme)
            assert q.codes.max() <= levels(cell.scheme.bits) and q.codes.shape == shape
            assert cell.qe == pytest.approx(np.mean((values.astype(np.float64) - q.dequantize(FLOAT32)) ** 2), rel=1e-4)
            assert cell.qe == pytest.approx(quantization_error(q, values), rel=1e-4)
            if name == "hqq":  # it minimises the sum of |error|^0.7, see tests/test_methods.py
                continue
            plain, _ = plain_minmax(values, group_of(shape, layout, grid), cell.scheme.bits, symmetric)
            assert cell.qe <= np.mean((values.astype(np.float64) - plain) ** 2) * 1.0001


ROWS = {
    "constant": np.full((3, 8), 0.3),
    "negative constant": np.full((3, 8), -0.3),
    "zero": np.zeros((3, 8)),
    "one weight": np.array([[0.7]]),
    "one zero row": np.vstack([np.zeros(8), np.linspace(-1, 1, 8)]),
    "huge": np.linspace(-1e37, 3e37, 24).reshape(3, 8),
    "tiny": np.linspace(-1e-7, 3e-7, 24).reshape(3, 8),
    "very tiny": np.linspace(-1e-24, 3e-24, 24).reshape(3, 8),
    "huge and tiny": np.vstack([np.linspace(-9e4, 9e6, 8), np.linspace(-1e-20, 1e-20, 8)]),
    "below the normal numbers": np.linspace(0, 1e-40, 24).reshape(3, 8),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", METHODS)
def test_unusual_rows_have_finite_scales_and_honest_errors(name: str, rows: str) -> None:
    values = ROWS[rows].astype(np.float32)
    for bits, symmetric in itertools.product(ALL_BITS, (False, True)):
        scale, zero = method(name).fit(values, bits, symmetric)
        codes = encode(values, scale, np.broadcast_to(zero, scale.shape), bits)
        step = scale.astype(np.float64)[:, None]
        back = (codes.astype(np.float64) - zero.astype(np.float64)[:, None]) * step
        assert (scale > 0).all() and np.isfinite(back).all()
        if name == "minmax":
            assert (np.abs(values - back) <= step * 0.5001).all()
        (error,) = method(name).errors(values, [bits], symmetric)
        assert error == pytest.approx(np.sum((values - back) ** 2), rel=1e-3, abs=1e-60)


def test_a_weight_of_zeros_comes_back_as_zeros() -> None:
    values = np.zeros((6, 9), np.float32)
    for bits, symmetric in itertools.product(ALL_BITS, (False, True)):
        q = quantize_weight(
            site(values, WeightAxes(p=1, r=1)), values, Scheme(bits=bits, grid=GRIDS[1], symmetric=symmetric)
        )
        assert not q.dequantize(FLOAT32).any()


def test_large_float16_weights_stay_finite() -> None:
    values = np.linspace(-60000, 60000, 512).reshape(8, 64).astype(np.float16)
    for bits in ALL_BITS:
        q: QuantizedTensor = quantize_weight(
            site(values, WeightAxes(p=1, r=1)), values, Scheme(bits=bits, grid=GRIDS[0])
        )
        assert np.isfinite(q.dequantize(np.dtype(np.float16))).all(), bits


def test_the_table_of_large_weights_is_finite() -> None:
    values = weight(8, 64) * np.float32(1e20)
    table = site_errors(site(values, WeightAxes(p=1, r=1)), values, SearchOptions(method="minmax"))
    assert table.power == pytest.approx(np.mean(values.astype(np.float64) ** 2))


def test_the_baseline_is_int8_with_one_scale_or_the_same_quantizer() -> None:
    values = weight(7, 24)
    layout = WeightAxes(p=1, r=1)
    int8 = site_errors(site(values, layout), values, SearchOptions(method="minmax", bits=(4, 5)))
    step = np.float32((values.max() - values.min()) / 255)
    assert int8.baseline == pytest.approx(np.mean((values - np.rint(values / step) * step) ** 2), rel=1e-4)
    same = site_errors(site(values, layout), values, SearchOptions(method="minmax", bits=(4, 5), baseline="same"))
    eight = site_errors(site(values, layout), values, SearchOptions(method="minmax", bits=(8,)))
    assert same.baseline == eight.candidates[0].qe < int8.baseline
    assert same.power == pytest.approx(np.mean(values**2))


def test_weights_on_a_grid_of_two_bits_are_exact_at_every_width_and_min_max_at_even_ones_only() -> None:
    values = np.random.default_rng(0).integers(-1, 3, (8, 64)).astype(np.float32)
    values[:, :2] = (-1, 2)
    table = site_errors(site(values, WeightAxes(p=1, r=1)), values, SearchOptions(method="minmax"))
    assert all(cell.qe < 1e-6 for cell in table.candidates)
    sums = minmax.errors(values, ALL_BITS, False)
    qe = {bits: total / values.size for bits, total in zip(ALL_BITS, sums, strict=True)}
    assert all(qe[bits] < 1e-6 for bits in (2, 4, 6, 8)) and all(qe[bits] > 1e-5 for bits in (3, 5, 7))


def errors_of(baseline: float, **qe: float) -> ErrorRow:
    """w2=..., w3=...: the QE at each width."""
    cells = [
        Candidate(scheme=Scheme(bits=int(name[1:]), grid=GRIDS[1]), qe=value, nbytes=1) for name, value in qe.items()
    ]
    return ErrorRow(site="w", elements=1, power=1.0, baseline=baseline, candidates=tuple(cells))


@pytest.mark.parametrize(
    ("qem", "bits"), [(0.5, 8), (0.9, 6), (1, 6), (1.9, 6), (2, 5), (3.9, 5), (4, 3), (6, 3), (100, 2)]
)
def test_the_fewest_bits_within_qem_times_the_baseline_are_chosen(qem: float, bits: int) -> None:
    table = errors_of(0.01, w8=0.006, w7=0.03, w6=0.009, w5=0.02, w4=0.05, w3=0.04, w2=0.5)
    assert choose(table, qem).bits == bits
    assert {name: scheme.bits for name, scheme in allocate({"w": table}, qem).items()} == {"w": bits}


def test_a_baseline_of_zero_asks_for_no_error() -> None:
    assert choose(errors_of(0.0, w2=0.0, w3=0.1, w4=0.0), 2).bits == 2
    assert choose(errors_of(0.0, w2=0.1, w3=0.2, w4=1e-30), 1e9).bits == 4


@PROPERTIES
@given(
    qe=st.lists(st.floats(0, 1), min_size=7, max_size=7),
    baseline=st.floats(0, 1),
    small=st.floats(1e-3, 1e3),
    factor=st.floats(1, 1e3),
)
def test_a_larger_qem_never_takes_more_bits(qe: list[float], baseline: float, small: float, factor: float) -> None:
    table = errors_of(baseline, **{f"w{bits}": value for bits, value in zip(ALL_BITS, qe, strict=True)})
    assert choose(table, small * factor).bits <= choose(table, small).bits
