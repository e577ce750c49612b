"""Rows and blocks of a tensor, integer codes and what they stand for, against plain loops and formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from cases import LAYOUTS, Array

from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.numerics.granularity import ALL_BITS, Granularity, WeightAxes
from mixquant_onnx.numerics.integers import encode, levels, storable_scale
from mixquant_onnx.numerics.quadratic import quadratic_error
from mixquant_onnx.numerics.rows import (
    channel_params_shape,
    effective_grid,
    expand_params,
    from_rows,
    params_from_rows,
    params_shape,
    params_to_rows,
    to_rows,
)
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme, dequantize

TENSOR, CHANNEL = Granularity(per="tensor"), Granularity(per="channel")
GRIDS = [TENSOR, CHANNEL, Granularity(per="block", block=4), Granularity(per="block", block=5)]
CASES = list(product(LAYOUTS, GRIDS))


def numbered(shape: tuple[int, ...]) -> Array:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def row_numbers(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> Array:
    """For each weight the number of its row, one weight after another."""
    merged = WeightAxes(p=layout.p, r=layout.r, q=layout.q + layout.s) if grid.block else layout
    axes = [kind for kind in "prqs" for _ in range(getattr(merged, kind))]
    blocks = -(-int(np.prod([n for n, kind in zip(shape, axes, strict=True) if kind == "r"])) // (grid.block or 1))
    found = np.zeros(shape, int)
    for index in np.ndindex(shape):
        row = reduced = 0
        for at, size, kind in zip(index, shape, axes, strict=True):
            if kind in "pq" and grid.per != "tensor":
                row = row * size + at
            if kind == "r":
                reduced = reduced * size + at
        found[index] = row * blocks + reduced // grid.block if grid.block else row
    return found


@pytest.mark.parametrize(("case", "grid"), CASES, ids=str)
def test_a_row_holds_the_weights_that_share_a_scale(case: str, grid: Granularity) -> None:
    layout, shape = LAYOUTS[case]
    tensor = numbered(shape)
    rows = to_rows(tensor, layout, grid)
    assert rows.flags.c_contiguous and rows.dtype == tensor.dtype
    expected = row_numbers(shape, layout, grid)
    for number, row in enumerate(rows):
        kept = row[row > 0]
        assert kept.tolist() == tensor[expected == number].tolist()
        assert (row[len(kept) :] == 0).all()
    assert len(rows) == expected.max() + 1 and (grid.block is None or rows.shape[1] == grid.block)
    back = from_rows(rows, shape, layout, grid)
    assert back.shape == shape and (back == tensor).all()


@pytest.mark.parametrize(("case", "grid"), CASES, ids=str)
def test_one_value_a_row_is_laid_out_for_every_weight_of_the_row(case: str, grid: Granularity) -> None:
    layout, shape = LAYOUTS[case]
    count = len(to_rows(numbered(shape), layout, grid))
    params = params_from_rows(np.arange(count), shape, layout, grid)
    assert params.shape == params_shape(shape, layout, grid)
    assert params_to_rows(params, count).tolist() == list(range(count))
    expanded = expand_params(params, shape, layout, grid)
    assert (np.broadcast_to(expanded, shape) == row_numbers(shape, layout, grid)).all()
    assert expanded.ndim == len(shape)


def test_one_value_stands_for_all_rows() -> None:
    single = np.full((1, 1, 1), 7)
    assert params_to_rows(single, 3).tolist() == [7, 7, 7]
    assert expand_params(single, (2, 3), WeightAxes(p=1, r=1), CHANNEL).shape == (1, 1)


def test_parameters_are_blocks_between_the_row_axes() -> None:
    layout = WeightAxes(p=1, r=1, q=1)
    grid = Granularity(per="block", block=4)
    assert params_shape((3, 13, 5), layout, grid) == (3, 4, 5)
    assert params_shape((3, 12, 5), layout, grid) == (3, 3, 5)
    assert params_shape((3, 13, 5), layout, CHANNEL) == (3, 1, 5)
    assert channel_params_shape((3, 13, 5), layout) == (3, 1, 5)
    assert channel_params_shape((9, 4, 3, 2), WeightAxes(r=1, q=1, s=2)) == (1, 4, 1, 1)


@pytest.mark.parametrize(("block", "kept"), [(12, True), (13, False), (14, False)])
def test_a_block_as_long_as_a_row_is_the_channel(block: int, kept: bool) -> None:
    grid = Granularity(per="block", block=block)
    assert effective_grid((3, 13, 5), WeightAxes(p=1, r=1, q=1), grid) == (grid if kept else CHANNEL)
    assert effective_grid((3, 13, 5), WeightAxes(p=1, r=1, q=1), TENSOR) == TENSOR


def test_axes_are_multiplied_out_by_kind() -> None:
    layout = WeightAxes(p=1, r=2, q=1, s=2)
    assert layout.sizes((2, 3, 5, 7, 11, 13)) == (2, 15, 7, 143)
    assert layout.merged() == WeightAxes(p=1, r=2, q=3)


@pytest.mark.parametrize(
    ("text", "grid"),
    [("tensor", TENSOR), ("channel", CHANNEL), ("block:5", GRIDS[3]), ("b2", Granularity(per="block", block=2))],
)
def test_granularities_are_read_and_written(text: str, grid: Granularity) -> None:
    assert Granularity.parse(text) == grid
    assert Granularity.parse(str(grid)) == grid


@pytest.mark.parametrize("text", ["row", "block", "block:", "block:1", "b1", "b0", "b-2", "xb4", "b4x", "", "Tensor"])
def test_other_granularities_are_refused_by_name(text: str) -> None:
    with pytest.raises(OptionError, match=rf"^granularity '{text}' is not known; use tensor, channel or block:N with"):
        Granularity.parse(text)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_schemes_are_read_as_written(bits: int, symmetric: bool, grid: Granularity) -> None:
    scheme = Scheme(bits=bits, grid=grid, method="mse", symmetric=symmetric)
    assert Scheme.parse(str(scheme)) == scheme
    assert str(scheme).endswith(".sym") == symmetric


@pytest.mark.parametrize(
    "text", ["w1.channel.mse", "w9.channel.mse", "w4.b1.mse", "w4.rows.mse", "w4.channel", "4.channel.mse"]
)
def test_what_is_no_scheme_is_refused_by_name(text: str) -> None:
    with pytest.raises(PlanError, match=rf"^'{text}' is not a scheme[;:] "):
        Scheme.parse(text)
    assert Scheme(bits=4, grid=CHANNEL) == Scheme.parse("w4.channel.minmax")


@pytest.mark.parametrize(("bits", "highest"), [(2, 3), (3, 7), (4, 15), (5, 31), (6, 63), (7, 127), (8, 255)])
def test_codes_go_from_zero_to_two_to_the_bits_less_one(bits: int, highest: int) -> None:
    assert levels(bits) == highest
    rows = np.array([[-1e6, 1e6]], np.float32)
    codes = encode(rows, np.ones(1, np.float32), np.array([1], np.uint8), bits)
    assert codes.dtype == np.uint8 and codes.tolist() == [[0, highest]]


def test_codes_are_rounded_half_to_even_with_a_scale_and_zero_point_for_each_row() -> None:
    rows = np.array([[0.5, 1.5, 2.5, -0.5, -1.5], [1.0, 3.0, 5.0, -1.0, 0.9]], np.float32)
    codes = encode(rows, np.array([1, 2], np.float16), np.array([3, 1], np.uint8), 4)
    assert codes.tolist() == [[3, 5, 5, 3, 1], [1, 3, 3, 1, 1]]


def test_a_scale_is_stored_as_the_next_float16_that_is_no_smaller() -> None:
    given = np.array([0.1, 0.3, 1.0, 1 / 3, 2.0**-14, 60000], np.float32)
    stored = storable_scale(given)
    assert stored.dtype == np.float16
    assert (stored >= given).all() and (np.nextafter(stored, np.float16(0)) < given).all()
    assert stored[2] == 1 and stored[4] == 2.0**-14


@pytest.mark.parametrize("extreme", [2.0**-14.01, 65500.0, 1e9])
def test_one_scale_beyond_normal_float16_keeps_all_in_float32(extreme: float) -> None:
    given = np.array([0.1, extreme], np.float32)
    assert storable_scale(given) is given
    assert storable_scale(np.array([65430.0], np.float32)).dtype == np.float16


def test_scales_and_codes_are_worked_with_as_float32() -> None:
    """As ONNX Runtime does: 0.1 as float32 is a little more than as float64."""
    rows = np.array([[0.15, 0.25]], np.float32)
    step = np.array([0.1])
    assert encode(rows, step, np.zeros(1, np.uint8), 4).tolist() == np.rint(rows / step.astype(np.float32)).tolist()
    given = np.full((1, 1), 0.1)
    three, zero = np.full((1, 1), 3, np.uint8), np.zeros((1, 1, 1), np.uint8)
    found = dequantize(three, given[None], zero, WeightAxes(p=1, r=1), TENSOR, np.dtype(np.float64))
    assert found.item() == float(np.float32(3) * np.float32(0.1)) != 3 * 0.1


def test_the_quadratic_form_is_the_error_of_the_outputs() -> None:
    random = np.random.default_rng(0)
    x, difference = (random.standard_normal(shape).astype(np.float32) for shape in ((2, 500, 6), (2, 3, 6)))
    matrix = np.matmul(x.transpose(0, 2, 1), x) / 500
    outputs = np.matmul(x, difference.transpose(0, 2, 1))
    assert quadratic_error(difference, matrix) == pytest.approx(float((outputs**2).sum() / 500), rel=1e-4)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_a_code_stands_for_its_distance_from_the_zero_point_times_the_scale(grid: Granularity, kind: type) -> None:
    layout, shape = LAYOUTS["odd"]
    codes = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    params = params_shape(shape, layout, grid)
    scale = np.random.default_rng(2).uniform(0.1, 1, params).astype(np.float16)
    zero = np.random.default_rng(3).integers(0, 256, params).astype(np.uint8)
    rows = row_numbers(shape, layout, grid)
    scales, zeros = (params_to_rows(part, int(rows.max()) + 1)[rows] for part in (scale, zero))
    wanted = (codes.astype(np.float32) - zeros) * scales.astype(np.float32)
    found = dequantize(codes, scale, zero, layout, grid, np.dtype(kind))
    assert found.dtype == kind and (found == wanted.astype(kind)).all()
    scheme = Scheme(bits=8, grid=grid)
    q = QuantizedTensor(codes=codes, scale=scale, zero_point=zero, scheme=scheme, layout=layout, dtype="float32")
    assert (q.dequantize(np.dtype(kind)) == found).all()
