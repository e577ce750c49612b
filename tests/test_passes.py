"""Quantization on the representations of other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxruntime
import pytest
from cases import text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.passes import graphsurgeon
from mixquant_onnx.passes.ir import QuantizePass

CNN = Path(__file__).parent.parent / "models" / "digits_cnn" / "model.onnx"
FORMS = [{}, {"target": "qdq", "bits": 3}, {"native_types": True, "bits": 4, "target": "qdq"}, {"bits": 5}]


def ran(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    given = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 4 for d in given.shape]
    return np.asarray(session.run(None, {given.name: np.random.default_rng(1).random(shape, np.float32)})[0])


@pytest.mark.parametrize("options", FORMS)
def test_a_graphsurgeon_graph_is_quantized_in_place(options: dict[str, object]) -> None:
    graph = gs.import_onnx(onnx.load(CNN))
    names = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
    result = graphsurgeon.quantize(graph, data_free=True, **options)  # type: ignore[arg-type]
    written = gs.export_onnx(graph)
    assert result.verification is not None and len(result.plan.sites) >= 13
    assert [tensor.name for tensor in (*graph.inputs, *graph.outputs)] == names
    assert written.ByteSize() < 0.4 * CNN.stat().st_size
    np.testing.assert_array_equal(ran(written), ran(result.model))
    for place, node in enumerate(graph.nodes):
        node.name = f"edited_{place}"
    np.testing.assert_array_equal(ran(gs.export_onnx(graph.cleanup().toposort())), ran(result.model))


def test_a_graph_is_as_it_was_after_an_error() -> None:
    graph = gs.import_onnx(text("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }"))
    nodes = graph.nodes
    with pytest.raises(mq.UnchangedError):
        graphsurgeon.quantize(graph, data_free=True)
    assert graph.nodes is nodes and [node.op for node in nodes] == ["Relu"]


@pytest.mark.parametrize("options", FORMS)
def test_a_pass_of_onnx_ir_gives_a_quantized_model(options: dict[str, object]) -> None:
    model = ir.from_proto(onnx.load(CNN))
    step = QuantizePass(data_free=True, **options)  # type: ignore[arg-type]
    done = ir.passes.Sequential(step)(model)
    assert done.modified and step.result is not None
    written = ir.to_proto(done.model)
    assert written.ByteSize() < 0.4 * CNN.stat().st_size
    np.testing.assert_array_equal(ran(written), ran(step.result.model))
    np.testing.assert_array_equal(ran(ir.to_proto(model)), ran(onnx.load(CNN)))


def test_an_error_of_a_pass_names_the_reason() -> None:
    model = text("g (float[N,64] x, float[64,64] v) => (float[N,64] y) { y = MatMul (x, v) }", v=weight(64, 64))
    with pytest.raises(mq.OptionError, match="neither"):
        QuantizePass(method="neither").call(ir.from_proto(model))


@pytest.mark.slow
def test_the_example_for_olive_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("olive")
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load(CNN), "in.onnx")
    page = (CNN.parents[2] / "docs" / "passes.md").read_text(encoding="utf8")
    found: dict[str, Any] = {"__name__": "example"}
    for block in re.findall(r"```python\n(.*?)```", page.split("## Olive")[1], flags=re.DOTALL):
        exec(block, found)
    written = Path(found["quantized"].model_path)
    assert written.stat().st_size < 0.4 * CNN.stat().st_size
    assert ran(onnx.load(written)).shape == (4, 10)
