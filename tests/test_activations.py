"""Values read place after place, against runs of the whole model."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime import incremental as incremental
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.runtime.value_store import ValueStore

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


def test_an_output_of_an_early_layer_is_there_later_too(ran: list[str]) -> None:
    """As the cache of a decoder's first layer, which nothing behind that layer reads."""
    model = residual()
    last = f"h{LAYERS - 1}"
    values = IncrementalExecutor(model, INNER, FEEDS, outputs=["r0", last])
    for name in INNER[:-1]:
        values.advance([name])
    ran.clear()
    for number, found in enumerate(values.fork().values(["r0", last])):
        np.testing.assert_allclose(found["r0"], expected(model, "r0")[number], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[last], expected(model, last)[number], rtol=1e-5, atol=1e-6)
    assert ran and not set(ran) & {"p0", "r0", "h0"}


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


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The system's folder for temporary files; of all values no more than 100 bytes are kept in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(incremental, "MOST_BYTES", 100)
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [found for found in folder.rglob("*") if found.is_file()]


def test_values_beyond_the_memory_limit_are_on_the_disk_and_not_run_again(ran: list[str], folder: Path) -> None:
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    for name in INNER:
        for found, wanted in zip(values.values([name]), expected(model, name), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
        assert len(files(folder)) in (1, 2), "files of earlier values are removed"
    assert len(ran) == len(set(ran)) == 3 * LAYERS


def test_the_disk_gives_the_same_bits_as_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual()
    spilled = IncrementalExecutor(model, INNER, FEEDS)
    monkeypatch.setattr(incremental, "MOST_BYTES", 1 << 20)
    kept = IncrementalExecutor(model, INNER, FEEDS)
    for name in INNER:
        for one, two in zip(spilled.values([name]), kept.values([name]), strict=True):
            assert one[name].dtype == two[name].dtype and one[name].shape == two[name].shape
            assert one[name].tobytes() == two[name].tobytes()
    assert files(folder)


def test_the_folder_is_removed_with_the_last_fork(folder: Path) -> None:
    values = IncrementalExecutor(residual(), INNER, FEEDS)
    values.advance(["h0"])
    other = values.fork()
    held = files(folder)
    assert held
    values.advance(["h1"])
    assert set(held) < set(files(folder))
    del values
    assert files(folder) == held
    assert next(other.values(["h2"]))["h2"].shape == (3, 6)
    del other
    assert not list(folder.iterdir())


def test_the_folder_is_removed_where_a_run_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        values = IncrementalExecutor(residual(), INNER, FEEDS)
        values.advance(["h0"])
        assert files(folder)
        for _ in values.values(["h1"]):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    caught.value.with_traceback(None)
    del caught
    gc.collect()
    assert not list(folder.iterdir())


def test_the_folder_is_removed_at_the_end_of_the_program(folder: Path) -> None:
    program = """
import sys, tempfile
import numpy as np
from mixquant_onnx.runtime.value_store import ValueStore
store = ValueStore(0)
value = store.keep(np.ones(3, np.float32))
print(value.read())
sys.exit(sum(1 for _ in __import__("pathlib").Path(tempfile.gettempdir()).glob("*/*")))"""
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (1, "[1. 1. 1.]\n"), run.stderr
    assert not list(folder.iterdir())


@pytest.mark.parametrize("broken", ["folder", "file"])
def test_where_the_disk_is_not_writable_more_is_run_again(
    ran: list[str], folder: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "folder":
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    else:
        monkeypatch.setattr(ValueStore, "_new_file", lambda _: folder / "missing" / "file")
    model = residual()
    values = IncrementalExecutor(model, INNER, FEEDS)
    for name in INNER:
        for found, wanted in zip(values.values([name]), expected(model, name), strict=True):
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    assert len(ran) == 3 * sum(range(1, LAYERS + 1))


@pytest.mark.parametrize("value", [np.float16(3), np.zeros((0, 4), np.int64), np.arange(6.0).reshape(2, 3).T > 2])
def test_a_value_comes_back_from_the_disk_in_its_type_and_shape(folder: Path, value: FloatArray) -> None:
    value = np.asarray(value)
    store = ValueStore(-1)
    read = store.keep(value).read()
    assert read.dtype == value.dtype and read.shape == value.shape
    np.testing.assert_array_equal(read, value)


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


def test_values_of_one_node_are_kept_for_later_calls(ran: list[str]) -> None:
    """As of an If whose branches hold several weights; nothing but it reads the input."""
    nodes = [helper.make_node("Split", ["x"], ["a", "b"], axis=1), helper.make_node("Add", ["a", "b"], ["y"])]
    shape: list[str | int | None] = ["n", 6]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    values = IncrementalExecutor(model, ["a", "b"], FEEDS)
    for name, part in (("a", slice(0, 3)), ("b", slice(3, 6))):
        for found, feed in zip(values.values([name]), FEEDS, strict=True):
            np.testing.assert_array_equal(found[name], feed["x"][:, part])
    assert ran.count("a") == 1
