"""Where new tensors stand, what they keep of the old ones, and that equal ones are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import agreement, text, weight
from onnx import ModelProto, StringStringEntryProto, numpy_helper

import mixquant_onnx as mq


def layers(**weights: Any) -> ModelProto:
    return text(
        """g (float[N,64] x, float[64,64] a, float[64,64] b, float[64,64] c) => (float[N,64] y)
        { h = MatMul (x, a) i = MatMul (h, b) y = MatMul (i, c) }""",
        **{"a": weight(64, 64), "b": weight(64, 64, seed=1), "c": weight(64, 64, seed=2), **weights},
    )  # fmt: skip


def owners(model: ModelProto) -> list[str]:
    """The names that the initializers start with, in order."""
    return list(dict.fromkeys(tensor.name.split(".")[0] for tensor in model.graph.initializer))


@pytest.mark.parametrize("options", [{}, {"target": "qdq"}, {"include": ["b"]}], ids=str)
def test_tensors_stand_where_the_old_one_stood(options: dict[str, Any]) -> None:
    model = layers()
    model.graph.initializer.insert(1, numpy_helper.from_array(weight(7), "between"))
    model.graph.initializer.append(numpy_helper.from_array(weight(300), "last"))
    result = mq.quantize(model, bits=[5], **options)
    found = [name for name in owners(result.model) if name != "mixquant"]
    assert found == ["a", "between", "b", "c", "last"]
    assert result.model.graph.initializer[-1] == model.graph.initializer[-1]
    assert agreement(model, result.model) > 20


def test_tensors_of_a_constant_do_not_become_the_last_ones() -> None:
    model = text("""g (float[N,64] x, float[64,64] v) => (float[N,64] y)
        { w = Constant <value=float[1] {0}> () h = MatMul (x, w) y = MatMul (h, v) }""",
                 v=weight(64, 64), w=weight(64, 64, seed=1))  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(weight(300), "last"))
    result = mq.quantize(model, bits=[8])
    assert owners(result.model) == ["w", "v", "last"]
    assert agreement(model, result.model) > 32


@pytest.mark.parametrize("target", ["ort", "qdq"])
@pytest.mark.parametrize("bits", [3, 8])
def test_documentation_of_a_weight_is_kept(bits: int, target: str) -> None:
    model = text("""g (float[N,64] x, float[64,64] v) => (float[N,64] y)
        { w = Constant <value=float[1] {0}> () h = MatMul (x, w) y = MatMul (h, v) }""",
                 v=weight(64, 64), w=weight(64, 64, seed=1))  # fmt: skip
    entry = StringStringEntryProto(key="from", value="layer 7")
    (tensor,), (constant,) = model.graph.initializer, [n for n in model.graph.node if n.op_type == "Constant"]
    for owner in (tensor, constant, constant.attribute[0].t):
        owner.doc_string = "what it is"
        owner.metadata_props.append(entry)
    changed = mq.quantize(model, bits=[bits], target=target).model
    documented = [t for t in changed.graph.initializer if t.doc_string]
    assert [t.name.split(".")[0] for t in documented] == ["w", "v"]
    makers = [node for node in changed.graph.node if node.doc_string]
    assert [node.output[0] for node in makers] == ["w"]
    for owner in (*documented, *makers):
        assert owner.doc_string == "what it is" and list(owner.metadata_props) == [entry]


@pytest.mark.parametrize("options", [{}, {"target": "qdq"}, {"granularity": "block:16"}], ids=str)
@pytest.mark.parametrize("bits", [4, 5, 8])
def test_equal_weights_are_stored_once(bits: int, options: dict[str, Any], tmp_path: Path) -> None:
    one, twice = weight(64, 64), layers(b=weight(64, 64))
    result = mq.quantize(twice, tmp_path / "out.onnx", bits=[bits], rounding="nearest", **options)
    assert list(result.plan.sites) == ["a", "b", "c"] and result.verification is not None
    assert not any(t.name.startswith("b.") for t in result.model.graph.initializer)
    contents = [t.raw_data for t in result.model.graph.initializer]
    assert len(contents) == len(set(contents))
    other = mq.quantize(layers(), bits=[bits], rounding="nearest", **options)
    assert other.nbytes_after - result.nbytes_after > one.size * bits / 8
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    assert agreement(twice, str(tmp_path / "out.onnx")) > 6 * bits - 14


def test_tensors_are_shared_within_one_graph_only() -> None:
    model = text("""g (bool c, float[N,64] x, float[64,32] v) => (float[N,32] y, float[N,32] z) {
        z = MatMul (x, v)
        y = If (c) <then_branch = t () => (float[N,32] p) { w = Constant <value=float[1] {0}> () p = MatMul (x, w) },
        else_branch = e () => (float[N,32] q) { w = Constant <value=float[1] {0}> () q = MatMul (x, w) }> }""",
                 w=weight(64, 32), v=weight(64, 32))  # fmt: skip
    result = mq.quantize(model, bits=[8], rounding="nearest")
    branches = [a.g for node in result.model.graph.node for a in node.attribute if a.HasField("g")]
    assert len(branches) == 2 and len(result.plan.sites) == 3
    for graph in (result.model.graph, *branches):
        names = {t.name for t in graph.initializer}
        assert any(name.split(".")[1].startswith("codes") for name in names)
    assert agreement(model, result.model) > 32


def test_equal_weights_of_a_function_are_stored_once() -> None:
    model = text("""g (float[N,64] x) => (float[N,64] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17]>
        f (a) => (r) { v = Constant <value=float[1] {0}> () w = Constant <value=float[1] {0}> ()
        h = MatMul (a, v) r = MatMul (h, w) }""",
                 imports=', "local" : 1', w=weight(64, 64), v=weight(64, 64))  # fmt: skip
    result = mq.quantize(model, bits=[8], rounding="nearest")
    assert len(result.plan.sites) == 2 and result.nbytes_after < 64 * 64 * 1.3
    assert agreement(model, result.model) > 32


def test_sharing_leaves_tensors_of_the_model_alone() -> None:
    shape = np.array([64, 64], np.int64)
    model = layers()
    model.graph.initializer.append(numpy_helper.from_array(shape, "also a shape"))
    changed = mq.quantize(model, bits=[5]).model
    assert [t for t in changed.graph.initializer if t.name == "also a shape"] == [model.graph.initializer[-1]]
