"""Large weights in slices: the same as in one piece."""

from __future__ import annotations

import numpy as np
import pytest
from cases import LAYOUTS, site, weight

from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorRow, site_errors
from mixquant_onnx.quantization import slices
from mixquant_onnx.quantization.ranges import mse
from mixquant_onnx.quantization.weight import quantization_error, quantize_weight

GRIDS = ["channel", "tensor", "b4", "b16"]


def slice_all(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Slices of so few weights, also of weights that are small."""
    monkeypatch.setattr(slices, "SLICED_FROM", 0)
    monkeypatch.setattr(slices, "_AT_ONCE", at_once)


def in_one_piece(name: str, grid: str, method: str, bits: int, symmetric: bool) -> tuple[Scheme, ErrorRow]:
    layout, shape = LAYOUTS[name]
    scheme = Scheme(bits=bits, grid=Granularity.parse(grid), method=method, symmetric=symmetric)
    options = SearchOptions(bits=(bits,), grids=(scheme.grid,), method=method, symmetric=symmetric, baseline="int8")
    return scheme, site_errors(site(weight(*shape), layout), weight(*shape), options)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ["minmax", "mse", "hqq"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_slices_give_what_the_whole_gives(
    name: str, grid: str, method: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, shape = LAYOUTS[name]
    values = weight(*shape)
    scheme, row = in_one_piece(name, grid, method, 5, symmetric)
    whole = quantize_weight(site(values, layout), values, scheme)
    error = quantization_error(whole, values)
    slice_all(monkeypatch, 16)
    made = quantize_weight(site(values, layout), values, scheme)
    for attribute in ("codes", "scale", "zero_point"):
        one, other = getattr(whole, attribute), getattr(made, attribute)
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    assert quantization_error(made, values) == pytest.approx(error, rel=1e-12)
    found = in_one_piece(name, grid, method, 5, symmetric)[1]
    # A slice may hold scales in float16 where another one needs float32.
    same_type = whole.scale.dtype == np.float16
    assert found.candidates[0].qe == pytest.approx(row.candidates[0].qe, rel=1e-6 if same_type else 1e-2)
    assert found.baseline == row.baseline


def test_a_weight_with_a_scale_that_float16_cannot_hold_is_taken_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    slice_all(monkeypatch, 16)
    layout, shape = LAYOUTS["Gemm transB"]
    values = weight(*shape)
    values[3] *= 1e-6
    made = quantize_weight(site(values, layout), values, Scheme(bits=4, grid=Granularity(per="channel")))
    assert made.scale.dtype == np.float32
    assert quantization_error(made, values) < 1e-4


def test_slices_cover_the_weight_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slice_all(monkeypatch, 20)
    for layout, shape in LAYOUTS.values():
        seen = np.zeros(shape, int)
        parts = slices.slices_of(shape, layout, Granularity(per="channel"))
        for part in parts:
            seen[part] += 1
        assert (seen == 1).all()
    assert len(slices.slices_of((24, 7), LAYOUTS["MatMul"][0], Granularity(per="channel"))) == 7
    assert slices.slices_of((24, 7), LAYOUTS["MatMul"][0], Granularity(per="tensor")) == [()]


def test_an_estimate_is_made_from_rows_of_the_whole_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["Gemm transB"][0]
    values = weight(1200, 24)
    monkeypatch.setattr(mse, "_SAMPLE", 24 * 100)
    options = SearchOptions(bits=(3, 8), grids=(Granularity(per="channel"),), method="mse")

    def estimated() -> list[float]:
        return [cell.qe for cell in site_errors(site(values, layout), values, options, estimate=True).candidates]

    whole, exact = estimated(), site_errors(site(values, layout), values, options).candidates
    assert whole != [cell.qe for cell in exact]
    slice_all(monkeypatch, 1000)
    assert estimated() == whole
