"""Values read place after place, against runs of the whole model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime import incremental as incremental
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import Session

RANDOM = np.random.default_rng(0)
LAYERS = 5


def residual() -> ModelProto:
    """h0 = x; h(k+1) = h(k) + relu(h(k) w(k))."""
    nodes, weights, last = [], [], "x"
    for k in range(LAYERS):
        nodes += [
            helper.make_node("MatMul", [last, f"w{k}"], [f"p{k}"]),
            helper.make_node("Relu", [f"p{k}"], [f"r{k}"]),
            helper.make_node("Add", [last, f"r{k}"], [f"h{k}"]),
        ]
        weights.append(numpy_helper.from_array(RANDOM.standard_normal((6, 6)).astype(np.float32) / 3, f"w{k}"))
        last = f"h{k}"
    shape: list[str | int | None] = ["n", 6]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FEEDS = [{"x": RANDOM.standard_normal((n, 6)).astype(np.float32)} for n in (3, 5)]
INNER = [f"h{k}" for k in range(LAYERS)]


def expected(model: ModelProto, name: str) -> list[FloatArray]:
    whole = ModelProto()
    whole.CopyFrom(model)
    if name != f"h{LAYERS - 1}":
        whole.graph.output.append(helper.make_empty_tensor_value_info(name))
    return [Session(whole).run(feed, [name])[0] for feed in FEEDS]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first output of each node that a session was made of."""
    nodes: list[str] = []

    def recorded(model: ModelProto) -> Session:
        nodes.extend(node.output[0] for node in model.graph.node)
        return Session(model)

    monkeypatch.setattr(incremental, "Session", recorded)
    return nodes


def test_values_are_those_of_the_whole_model_and_no_node_runs_twice(ran: list[str]) -> None:
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    for name in INNER:
        for found, wanted in zip(values.values([name]), expected(model, name), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    assert len(ran) == len(set(ran)) == 3 * LAYERS


def test_a_weight_replaced_behind_a_place_counts_from_there_on() -> None:
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    before = [found["h1"] for found in values.values(["h1"])]
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.eye(6, dtype=np.float32), "w2"))
    after = [found["h2"] for found in values.values(["h2"])]
    for h1, h2 in zip(before, after, strict=True):
        np.testing.assert_allclose(h2, h1 + np.maximum(h1, 0), rtol=1e-5)


def test_several_places_at_once_and_one_passed_over() -> None:
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    for found, a, b in zip(values.values(["h0", "h3"]), expected(model, "h0"), expected(model, "h3"), strict=True):
        np.testing.assert_allclose(found["h0"], a, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["h3"], b, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_in_memory_is_run_again(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "MOST_BYTES", 100)
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    for name in INNER:
        for found, wanted in zip(values.values([name]), expected(model, name), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    assert len(ran) == 3 * sum(range(1, LAYERS + 1))


def test_nodes_with_weights_inside_run_each_time(ran: list[str]) -> None:
    """A node that gives out a value from inside a branch, whose weights may change between two places there."""
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS, volatile=frozenset({"r1"}))
    for name in INNER[:4]:
        for found, wanted in zip(values.values([name]), expected(model, name), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    assert ran.count("r1") == 3
    assert ran.count("r0") == ran.count("p1") == 1


def test_a_fork_goes_on_by_itself(ran: list[str]) -> None:
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    list(values.values(["h0"]))
    ahead = values.fork()
    assert [f["h3"] for f in ahead.values(["h3"])]
    for found, wanted in zip(values.values(["h1"]), expected(model, "h1"), strict=True):
        np.testing.assert_allclose(found["h1"], wanted, rtol=1e-5, atol=1e-6)
    assert ran.count("p0") == 1
