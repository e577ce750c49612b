"""--target qdq: standard operators alone, and no functions of ours, for other runtimes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import decibels, run, text, weight
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

import mixquant_onnx as mq

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")


def network() -> ModelProto:
    return text(
        """g (float[N,3,8,8] x, float[24,3,3,3] k, float[24,24,3,3] c, float[384,10] w) => (float[N,10] y)
        { a = Conv (x, k) r = Relu (a) b = Conv (r, c) f = Flatten (b) y = MatMul (f, w) }""",
        k=weight(24, 3, 3, 3), c=weight(24, 24, 3, 3, seed=1), w=weight(384, 10, seed=2), opset=21, ir=10,
    )  # fmt: skip


FEED = {"x": np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("bits", range(2, 9))
def test_there_are_no_functions_and_every_runtime_computes_the_same(bits: int, tmp_path: Path) -> None:
    made = mq.quantize(network(), tmp_path / "o.onnx", bits=bits, target="qdq", data_free=True, method="mse")
    assert len(made.plan.sites) == 3 and not made.model.functions
    assert {node.domain for node in made.model.graph.node} == {""}
    assert [one.domain for one in made.model.opset_import] == [""]
    assert made.nbytes_after == (tmp_path / "o.onnx").stat().st_size
    wanted = run(made.model, FEED)[0]
    outputs: Any = ReferenceEvaluator(made.model).run(None, FEED)
    assert decibels(wanted, outputs[0]) > 90


def test_functions_of_others_stay() -> None:
    model = text(
        """g (float[N,64] x, float[64,64] w) => (float[N,64] y) { h = MatMul (x, w) y = own.Twice (h) }
        <domain: "own", opset_import: ["" : 17]> Twice (a) => (b) { b = Add (a, a) }""", imports=', "own" : 1',
        w=weight(64, 64),
    )  # fmt: skip
    made = mq.quantize(model, bits=5, target="qdq", data_free=True, method="mse")
    assert [(one.domain, one.name) for one in made.model.functions] == [("own", "Twice")]
    assert {node.op_type for node in made.model.graph.node} >= {"Twice"}
    feed = {"x": np.ones((2, 64), np.float32)}
    assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > 20


def test_weights_inside_of_functions_and_branches() -> None:
    kernel = ", ".join(f"{value:.4f}" for value in weight(64 * 32))
    model = text(
        f"""g (float[N,64] x, bool c, float[64,32] w) => (float[N,32] y)
        {{ y = If (c) < then_branch = t () => (float[N,32] p) {{ p = MatMul (x, w) }},
                       else_branch = e () => (float[N,32] z) {{ z = own.Layer (x) }}> }}
        <domain: "own", opset_import: ["" : 17]> Layer (a) => (b)
        {{ k = Constant <value = float[64,32] {{{kernel}}}> () b = MatMul (a, k) }}""", imports=', "own" : 1',
        w=weight(64, 32),
    )  # fmt: skip
    made = mq.quantize(model, bits=3, target="qdq", data_free=True, method="mse")
    assert {one.domain for one in made.model.functions} == {"own"} and len(made.plan.sites) == 2
    for taken in (True, False):
        feed = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32), "c": np.array(taken)}
        assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > 8


@pytest.mark.parametrize("bits", range(2, 9))
def test_openvino_runs_it(bits: int, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    made = mq.quantize(network(), tmp_path / "o.onnx", bits=bits, target="qdq", data_free=True, method="mse")
    core = openvino.Core()
    compiled = core.compile_model(str(tmp_path / "o.onnx"), "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    assert decibels(run(made.model, FEED)[0], compiled(FEED)[0]) > 90


def test_tables_that_unpack_codes_are_stored_once(model_path: Path) -> None:
    written = mq.quantize(model_path, target="qdq", bits=3, data_free=True).model
    tables = [tensor.name for tensor in written.graph.initializer if tensor.name.startswith("mixquant.")]
    read = Counter(name for node in written.graph.node for name in node.input if name in tables)
    assert len(tables) == len(set(tables)) == 2 and all(count > 5 for count in read.values())
