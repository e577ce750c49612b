"""What a later layer of a block makes up for does not count."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mixquant_onnx.config.config import config_of
from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.data.dataset import Data, undivided
from mixquant_onnx.job import open_job
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.weights import find, weight_values
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocation import price_all
from mixquant_onnx.planning.error_table import ErrorTable, site_errors
from mixquant_onnx.planning.sensitivity import block_output
from mixquant_onnx.planning.sensitivity.measurement import Measurement
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.runtime.session import RuntimeFailure

RANDOM = np.random.default_rng(11)
CHAIN = [("MatMul", ["x", "a"], ["h"]), ("MatMul", ["h", "b"], ["y"])]
SIDE = [("MatMul", ["x", "a"], ["h"]), ("MatMul", ["x", "b"], ["i"]), ("Add", ["h", "i"], ["y"])]


def network(nodes: list[tuple[str, list[str], list[str]]]) -> ModelProto:
    weights = {name: RANDOM.standard_normal((24, 24)).astype(np.float32) for name in "ab"}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 24]) for name in "xy"]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "g", values[:1], values[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data() -> Data:
    return Data(feeds=({"x": RANDOM.standard_normal((400, 24)).astype(np.float32)},), labels=None)


def table_of(model: ModelProto) -> ErrorTable:
    sites = find(model, 1).sites
    options = SearchOptions(method="gptq")
    return {name: site_errors(located.site, weight_values(located), options) for name, located in sites.items()}


def shares(model: ModelProto) -> block_output.Shares:
    work = Workspace(split=undivided(data()))
    return block_output.compensation(Measurement(table_of(model), model, find(model, 1).sites, work))


def test_a_layer_makes_up_for_the_one_before_and_not_for_the_one_beside() -> None:
    assert shares(network(CHAIN))["a", "b"] > 0.5
    assert abs(shares(network(SIDE))["a", "b"]) < 0.2


def test_every_layer_of_a_pair_is_calibrated(samples_met: list[tuple[str, int]]) -> None:
    """Also those at the end of the network, whose inputs nothing else reads."""
    for nodes in (CHAIN, SIDE):
        shares(network(nodes))
        assert samples_met and {count for _, count in samples_met} == {400}


def test_nothing_is_measured_where_the_model_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeFailure("no")

    monkeypatch.setattr(block_output, "run_all", fails)
    assert shares(network(CHAIN)) == {}


def test_the_model_is_left_as_it_was() -> None:
    model = network(CHAIN)
    before = model.SerializeToString()
    shares(model)
    assert model.SerializeToString() == before


def test_all_that_is_is_compensated_is_taken_off_and_never_all() -> None:
    scheme = Scheme(bits=4, grid=Granularity(per="channel"))
    output = {name: {scheme: 2.0} for name in "abcd"}
    shares = {("a", "b"): 0.5, ("a", "c"): 0.25, ("b", "c"): 7.0, ("c", "d"): -0.5, ("d", "e"): -2, ("d", "f"): -2}
    found = block_output.corrected(output, shares)
    assert {name: own[scheme] for name, own in found.items()} == pytest.approx(
        {"a": 0.75, "b": 0.2, "c": 3.0, "d": 3.8}
    )


def test_a_plan_by_blocks_prices_what_is_is_compensated_lower() -> None:
    model = network(CHAIN)
    feed = data().feeds
    found = {}
    for cost in ("network-output", "block-output"):
        config = config_of(avg_bits=5, cost=cost, data=feed, method="gptq", min_size=1, verify=False)
        job = open_job(model_io.as_loaded(model), config)
        found[cost] = price_all(job.searched(), config.budget.cost, job.work)[0]
        assert found[cost].cost == cost
    for name, most in (("a", 0.5), ("b", 1.0)):
        for scheme, plain in found["network-output"].costs[name].items():
            assert found["block-output"].costs[name][scheme] <= most * plain
