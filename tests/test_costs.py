"""Costs say where an error hurts, and calibrated methods use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import seconds
from decoders import decoder, step
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data, undivided
from mixquant_onnx.model.weights import find, weight_values
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import site_errors
from mixquant_onnx.planning.sensitivity import network_output, weight_error
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.weight import output_error, quantize_weight

RANDOM = np.random.default_rng(5)


def two_paths(gain: float, unused: bool = False) -> ModelProto:
    """y = gain (x a) + x b, and a third weight that a condition never lets through."""
    weights = {name: RANDOM.standard_normal((32, 32)).astype(np.float32) for name in "abc"}
    weights["gain"] = np.full((), gain, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node("Mul", ["xa", "gain"], ["big"]),
        helper.make_node("MatMul", ["x", "b"], ["xb"]),
        helper.make_node("Add", ["big", "xb"], ["y" if not unused else "sum"]),
    ]
    if unused:
        weights["none"] = np.zeros((), np.float32)
        nodes += [
            helper.make_node("MatMul", ["x", "c"], ["xc"]),
            helper.make_node("Mul", ["xc", "none"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["y"]),
        ]
    kept = [n for n in weights if n != "c" or unused]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(weights[n], n) for n in kept],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed(rows: int = 200) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": RANDOM.standard_normal((rows, 32)).astype(np.float32)}


def output_costs(model: ModelProto, method: str = "mse", data: Data | None = None) -> Costs:
    sites = find(model, 256).sites
    options = SearchOptions(method=method)
    table = {name: site_errors(located.site, weight_values(located), options) for name, located in sites.items()}
    work = Workspace(split=undivided(data or Data(feeds=(feed(),), labels=None)))
    return network_output.measure(Measurement(table, model, sites, work))


def test_a_weight_behind_a_huge_gain_costs_as_much_more() -> None:
    found = output_costs(two_paths(10.0))
    for scheme, cost in found["a"].items():
        assert 30 < cost / found["b"][scheme] < 300


@pytest.mark.usefixtures("stored_at_a_loss")
def test_a_weight_behind_a_huge_gain_gets_the_bits() -> None:
    checked = (("output", 1), ("auto", 0))
    for cost, more in checked:
        planned = mq.inspect(two_paths(100.0), avg_bits=5.5, data=feed(), method="mse", cost=cost)
        assert planned.plan.sites["a"].bits > planned.plan.sites["b"].bits + more
    blind = mq.inspect(two_paths(100.0), avg_bits=5.5)
    assert abs(blind.plan.sites["a"].bits - blind.plan.sites["b"].bits) <= 1


def test_a_weight_that_the_data_never_reaches_costs_like_the_median_one() -> None:
    found = output_costs(two_paths(1.0, unused=True))
    scheme = Scheme(bits=4, grid=Granularity(per="channel"), method="mse")
    assert 0.3 < found["c"][scheme] / found["b"][scheme] < 3


def test_the_cost_of_a_table_that_is_the_head_too_counts_both_its_places() -> None:
    """Untied, with the same values, the two cost as much together."""
    ids = RANDOM.integers(0, 192, (8, 32))
    data = Data(feeds=(step("plain", ids),), labels=None)
    eight = Scheme(bits=8, grid=Granularity(per="channel"), method="mse")
    tied, apart = decoder(head="transposed"), decoder(head="apart")
    table = next(numpy_helper.to_array(t) for t in tied.graph.initializer if t.name == "embed")
    next(t for t in apart.graph.initializer if t.name == "head").CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(table.T), "head")
    )
    both, each = output_costs(tied, data=data), output_costs(apart, data=data)
    assert both["embed"][eight] == pytest.approx(each["embed"][eight] + each["head"][eight], rel=0.3)
    assert each["head"][eight] < 0.5 * both["embed"][eight]


def test_the_cost_of_a_width_that_was_not_measured_is_near_its_measurement() -> None:
    model = two_paths(3.0)
    found = output_costs(model)
    data = feed(2000)
    weights = {n: weight_values(s) for n, s in find(model, 256).sites.items()}
    wanted = 3 * data["x"] @ weights["a"] + data["x"] @ weights["b"]
    located = find(model, 256).sites["a"]
    for bits in (2, 4, 6):
        scheme = Scheme(bits=bits, grid=Granularity(per="channel"), method="mse")
        noise = (
            3
            * data["x"]
            @ (quantize_weight(located.site, weights["a"], scheme).dequantize(np.dtype("f4")) - weights["a"])
        )
        measured = float(np.sum(noise**2) / np.sum(wanted**2))
        assert found["a"][scheme] == pytest.approx(measured, rel=0.3)


def test_the_layer_error_from_moments_is_that_of_the_layer_on_the_data() -> None:
    model = two_paths(1.0)
    sites = find(model, 256).sites
    mixing = RANDOM.standard_normal((32, 32))
    x = (RANDOM.standard_normal((5000, 32)) @ mixing + 1).astype(np.float32)
    data = Data(feeds=({"x": x},), labels=None)
    moments = seconds(Calibration(model, sites, data), ["a"])["a"]
    weight = weight_values(sites["a"])
    other = weight + RANDOM.standard_normal(weight.shape).astype(np.float32) * 0.05
    measured = np.sum((x @ (other - weight)) ** 2, dtype=np.float64) / np.sum((x @ weight) ** 2, dtype=np.float64)
    assert output_error(sites["a"].site, weight, other, moments) == pytest.approx(float(measured), rel=0.05)


def test_energy_grows_with_the_root_of_the_size_and_is_zero_for_zeros() -> None:
    model = two_paths(1.0)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((32, 32), np.float32), "a"))
    sites = find(model, 256).sites
    options = SearchOptions(method="minmax")
    table = {name: site_errors(located.site, weight_values(located), options) for name, located in sites.items()}
    found = weight_error.measure(Measurement(table, model, sites))
    assert set(found["a"].values()) == {0.0}
    for cell in table["b"].candidates:
        assert found["b"][cell.scheme] == pytest.approx(cell.qe / table["b"].power * 32, rel=0.05)


def test_energy_does_not_depend_on_the_scales_of_a_layers_outputs() -> None:
    model = two_paths(1.0)
    sites = find(model, 256).sites
    plain = weight_values(sites["a"]).copy()
    spread = {}
    for name, gain in (("even", 1.0), ("steep", 1.2)):
        scaled = plain * np.float32(gain) ** np.arange(-16, 16, dtype=np.float32)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(scaled, "a"))
        located = find(model, 256).sites
        table = {"a": site_errors(located["a"].site, weight_values(located["a"]), SearchOptions(method="minmax"))}
        spread[name] = weight_error.measure(Measurement(table, model, located))["a"]
    for scheme, cost in spread["even"].items():
        assert spread["steep"][scheme] == pytest.approx(cost, rel=0.25)


@pytest.mark.parametrize("method", ["gptq", pytest.param("adaround", marks=pytest.mark.slow)])
def test_calibrated_methods_beat_ranges_alone_on_rows_that_they_did_not_see(method: str, model_path: Path) -> None:
    calibration, held = (model_path.parent / name for name in ("calib.npz", "eval.npz"))
    sqnr = {}
    for name in ("mse", method):
        options: dict[str, Any] = {"data": calibration, "method": name, "bits": 3, "verify": False}
        model = mq.quantize(model_path, **options).model
        sqnr[name] = _sqnr(model_path, model, held)
    assert sqnr[method] > sqnr["mse"] + 1.5


def _sqnr(original: Path, model: ModelProto, data: Path) -> float:
    from mixquant_onnx.numerics.noise import sqnr_db
    from mixquant_onnx.runtime.session import Session

    with np.load(data) as archive:
        rows = {"input": archive["input"][:200]}
    return sqnr_db(Session(original).run(rows)[0], Session(model).run(rows)[0])


def test_too_few_samples_are_rounded_and_named(model_path: Path) -> None:
    with np.load(model_path.parent / "calib.npz") as archive:
        one = {"input": archive["input"][:1]}
    result = mq.quantize(model_path, data=one, method="gptq", bits=4)
    if "transformer" not in str(model_path):
        assert any("fewer than 16 samples" in note for note in result.notes)


def test_the_same_plan_can_be_run_twice(model_path: Path) -> None:
    with np.load(model_path.parent / "calib.npz") as archive:
        data = {"input": archive["input"][:32]}
    options: dict[str, Any] = {"data": data, "avg_bits": 4.0, "bits": [3, 4, 6], "cost": "hessian", "verify": False}
    first, second = (mq.quantize(model_path, **options).model.SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.usefixtures("stored_at_a_loss")
def test_plans_that_are_compared_give_the_same_file_twice() -> None:
    options: dict[str, Any] = {"data": feed(), "avg_bits": 5.5}
    model = two_paths(3.0)
    first, second = (mq.quantize(model, **options).model.SerializeToString() for _ in range(2))
    assert first == second
