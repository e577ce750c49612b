"""One weight at many widths at once gives what each width alone gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixquant_onnx.data.accumulator import Accumulator
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import ALL_BITS, Granularity, WeightAxes
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization import widths
from mixquant_onnx.quantization.weight import output_error, quantize_weight

RANDOM = np.random.default_rng(3)


def site_of(shape: tuple[int, ...], layout: WeightAxes) -> WeightTensor:
    return WeightTensor(name="w", tensor="w", scope="", shape=shape, dtype="float32", layout=layout, uses=())


DENSE, DEPTHWISE = site_of((40, 24), WeightAxes(r=1, q=1)), site_of((12, 1, 3, 3), WeightAxes(p=1, r=3))


def values_of(site: WeightTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return RANDOM.standard_normal(site.shape).astype(np.float32)


def moments_of(groups: int, width: int) -> SecondMoments:
    total = Accumulator(split=True)
    mixed = RANDOM.standard_normal((width, width)).astype(np.float32)
    for _ in range(4):
        total.add(RANDOM.standard_normal((groups, 50, width)).astype(np.float32) @ mixed)
    found = total.result()
    assert isinstance(found, SecondMoments) and found.halves is not None
    return found


def schemes(grid: str = "channel", symmetric: bool = False) -> list[Scheme]:
    made = Granularity.parse(grid)
    return [Scheme(bits=bits, grid=made, method="gptq", symmetric=symmetric) for bits in ALL_BITS]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("site", "groups", "width", "grid"),
    [
        (DENSE, 1, 40, "channel"), (DENSE, 1, 40, "block:16"), (DENSE, 1, 40, "tensor"), (DEPTHWISE, 12, 9, "channel"),
    ],
)  # fmt: skip
def test_each_width_is_solved_as_it_is_alone(
    site: WeightTensor, groups: int, width: int, grid: str, symmetric: bool
) -> None:
    values, inputs = values_of(site), moments_of(groups, width)
    together = widths.solve_widths(site, values, schemes(grid, symmetric), inputs)
    assert list(together.candidates) == schemes(grid, symmetric)
    known = replace(inputs, sample_weight=together.sample_weight, halves=None)
    for scheme, found in together.candidates.items():
        alone = widths.solve_widths(site, values, [scheme], known).candidates[scheme]
        assert np.array_equal(found.q.codes, alone.q.codes)
        assert np.array_equal(found.q.scale, alone.q.scale) and found.q.scheme == scheme
        made = found.q.dequantize(np.dtype(np.float32))
        assert found.error == pytest.approx(output_error(site, values, made, known), rel=1e-4)


def test_rows_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values, inputs = values_of(DENSE), moments_of(1, 40)
    whole = widths.solve_widths(DENSE, values, schemes(), inputs).candidates
    monkeypatch.setattr(widths, "_AT_ONCE", 7 * 40 * 5)
    parts = widths.solve_widths(DENSE, values, schemes(), inputs).candidates
    assert all(np.array_equal(whole[s].q.codes, parts[s].q.codes) for s in whole)


def test_more_bits_are_less_error_and_less_than_by_nearest() -> None:
    values, inputs = values_of(DENSE), moments_of(1, 40)
    found = widths.solve_widths(DENSE, values, schemes(), inputs).candidates
    errors = [one.error for one in found.values()]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0
    for scheme in schemes()[1:4]:
        nearest = quantize_weight(DENSE, values, scheme).dequantize(np.dtype(np.float32))
        assert found[scheme].error < 0.9 * output_error(DENSE, values, nearest, inputs)


def test_weights_on_a_lattice_are_exact_where_the_width_holds_it() -> None:
    values = RANDOM.integers(-7, 8, DENSE.shape).astype(np.float32) / 4
    values[:2] = [[-7 / 4], [7 / 4]]
    found = widths.solve_widths(DENSE, values, schemes(), moments_of(1, 40)).candidates
    exact = [scheme.bits for scheme, one in found.items() if one.error == 0]
    assert exact == [4, 5, 6, 7, 8]
