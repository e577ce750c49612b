"""A method or an operator is added by one row of its table, and then works from end to end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from cases import Array, text
from onnx import numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.model.operators import OPERATORS, ActivationInput, Operator, WeightInput
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.granularity import WeightAxes
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.plan_outputs import surrogates_of
from mixquant_onnx.quantization.methods import METHODS, Method, Needs, is_calibrated, surrogate
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.rounding.objective import Problem, Rows
from mixquant_onnx.runtime.session import Session

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")

RANDOM = np.random.default_rng(7)


def values(*shape: int) -> Array:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


def linear() -> tuple[Any, dict[str, Array]]:
    """y = x w, and inputs that depend on four causes."""
    model = text("g (float[N,32] x, float[32,16] w) => (float[N,16] y) { y = MatMul (x, w) }", w=values(32, 16))
    return model, {"x": values(256, 4) @ values(4, 32) + 0.1 * values(256, 32)}


def output_error(model: Any, changed: Any, feed: dict[str, Array]) -> float:
    first, second = Session(model).run(feed)[0], Session(changed).run(feed)[0]
    return float(np.sum((first - second) ** 2) / np.sum(first**2))


def one_pass(problem: Problem) -> Rows:
    """A rounding method: columns in order, each takes the level that is best given those before it."""
    levels = problem.rounded()
    scale = np.broadcast_to(problem.scale, levels.shape)
    zero = np.broadcast_to(problem.zero_point, levels.shape)
    for j in range(levels.shape[2]):
        slope = np.einsum("gnk,gk->gn", levels - problem.target, problem.matrix[:, j])
        best = levels[:, :, j] - slope / problem.matrix[:, j, j, None]
        levels[:, :, j] = problem.nearest(best, scale[:, :, j], zero[:, :, j], problem.highest)
    return levels


def test_a_calibrated_method_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []

    def toy(problem: Problem) -> Rows:
        solved.append(problem.target.size)
        return one_pass(problem)

    monkeypatch.setitem(METHODS, "toy", Method(ranges=minmax.fit, rounding=toy))
    model, feed = linear()
    options: dict[str, Any] = {"bits": 3, "min_size": 1, "verify": False, "exact": True, "data": feed}
    result = mq.quantize(model, method="toy", **options)
    assert {scheme.method for scheme in result.plan.sites.values()} == {"toy"}
    assert solved == [32 * 16]
    nearest = mq.quantize(model, method="mse", rounding="nearest", **options)
    assert output_error(model, result.model, feed) < 0.5 * output_error(model, nearest.model, feed)
    again = Plan.from_json(json.loads(json.dumps(result.plan.to_json())))
    assert mq.apply_plan(model, again, data=feed, min_size=1, verify=False, exact=True).model == result.model
    with pytest.raises(mq.OptionError, match="--method toy needs --data"):
        mq.quantize(model, method="toy", data_free=True, min_size=1)


def test_a_plan_of_many_is_compared_by_the_surrogate_of_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight is solved by the surrogate for each plan, by the method itself once."""
    solved: dict[str, int] = {"toy": 0, "cheap": 0}

    def counted(name: str) -> Any:
        def solve(problem: Problem) -> Rows:
            solved[name] += 1
            return problem.rounded()

        return solve

    monkeypatch.setitem(METHODS, "cheap", Method(ranges=minmax.fit, rounding=counted("cheap")))
    monkeypatch.setitem(METHODS, "toy", Method(ranges=minmax.fit, rounding=counted("toy"), surrogate="cheap"))
    model, feed = linear()
    planned = mq.inspect(model, method="toy", avg_bits=5, data=feed, min_size=1)
    scheme = planned.plan.sites["w"]
    assert scheme.method == "toy" and surrogate(scheme).method == "cheap"
    surrogates_of(planned, Data(feeds=(feed,), labels=None), True)
    assert solved == {"toy": 0, "cheap": 1}
    mq.apply_plan(model, planned.plan, data=feed, min_size=1, verify=False)
    assert solved == {"toy": 1, "cheap": 1}


def powers_of_two(rows: Rows, bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """A range method: the min-max scale, rounded up to a power of two."""
    span = minmax.row_range(rows)
    scale = np.exp2(np.ceil(np.log2(minmax.scale_of(span, bits, symmetric)))).astype(np.float32)
    return scale, minmax.zero_point_of(span, scale, bits, symmetric)


def test_a_data_free_method_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "powers", Method(ranges=powers_of_two))
    assert METHODS["powers"].needs is Needs.NOTHING and not is_calibrated("powers")
    model, feed = linear()
    result = mq.quantize(model, method="powers", bits=[4, 8], qem=4, data_free=True, exact=True, min_size=1)
    assert result.plan.sites["w"].method == "powers"
    scales = [numpy_helper.to_array(t) for t in result.model.graph.initializer if "scale" in t.name]
    assert scales and all((np.log2(scale.astype(np.float64)) % 1 == 0).all() for scale in scales)
    assert output_error(model, result.model, feed) < 0.01
    told = result.table["w"].candidates
    assert {cell.scheme.bits: cell.qe for cell in told}[result.plan.sites["w"].bits] == pytest.approx(
        result.qe["w"], rel=0.3
    )


def test_the_names_that_are_offered_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "powers", Method(ranges=powers_of_two))
    with pytest.raises(mq.OptionError, match=r"'nothing' is not known; .*gptq.*powers"):
        mq.quantize(linear()[0], method="nothing")


def test_an_operator_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slopes of PRelu, one for each of its inputs: no weight until its row says so."""
    model = text("g (float[N,16,16] x, float[16,16] w) => (float[N,16,16] y) { y = PRelu (x, w) }", w=values(16, 16))
    assert not find(model, 1).sites
    row = Operator(weights=(WeightInput(index=1, layout=lambda rank, _: WeightAxes(p=1, r=rank - 1)),))
    monkeypatch.setitem(OPERATORS, ("", "PRelu"), row)
    feed = {"x": values(4, 16, 16)}
    result = mq.quantize(model, bits=8, min_size=1, data=feed)
    assert result.plan.sites["w"].bits == 8
    assert 0 < output_error(model, result.model, feed) < 1e-3
    stored = [t for t in result.model.graph.initializer if tuple(t.dims) == (16, 16)]
    assert stored and all(numpy_helper.to_array(t).dtype == np.uint8 for t in stored)


def test_the_input_that_an_operator_is_calibrated_with_is_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """FusedGemm is a matrix product whose row says nothing of its input."""
    model = text(
        """g (float[N,32] x, float[32,16] w) => (float[N,16] y)
        { y = com.microsoft.FusedGemm <activation="Relu"> (x, w) }""",
        w=values(32, 16),
    )
    model.opset_import.add(domain="com.microsoft", version=1)
    options: dict[str, Any] = {"method": "gptq", "bits": 3, "min_size": 1, "verify": False}
    feed = {"x": linear()[1]["x"]}
    unseen = mq.quantize(model, data=feed, **options)
    assert any("1 weight has no inputs to calibrate with ('w')" in note for note in unseen.notes)
    known = OPERATORS["com.microsoft", "FusedGemm"].weights[0]
    seen = WeightInput(index=1, layout=known.layout, activation=ActivationInput(index=0, kind="product"))
    monkeypatch.setitem(OPERATORS, ("com.microsoft", "FusedGemm"), Operator(weights=(seen,)))
    calibrated = mq.quantize(model, data=feed, **options)
    assert not any("no inputs" in note for note in calibrated.notes)
    assert output_error(model, calibrated.model, feed) < 0.5 * output_error(model, unseen.model, feed)
