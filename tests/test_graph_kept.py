"""What stays as it was: everything but the weights; and what is left float, with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from cases import Array, agreement, decibels, feed_for, float_tensors, ops, run, text, weight
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq

MATMUL = "g (float[N,64] x, float[64,32] w) => (float[N,32] y) { y = MatMul (x, w) }"


def one_matmul(value: Array | None = None, **options: Any) -> ModelProto:
    return text(MATMUL, w=weight(64, 32) if value is None else value, **options)


def as_input(model: ModelProto, name: str) -> ModelProto:
    """`model` with its initializer `name` listed as an input as well."""
    dims = next(list(t.dims) for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


def two_layers(**options: Any) -> ModelProto:
    return text(
        "g (float[N,64] x, float[64,64] v, float[64,32] w) => (float[N,32] y) { h = MatMul (x, v) y = MatMul (h, w) }",
        v=weight(64, 64), w=weight(64, 32), **options,
    )  # fmt: skip


def stored(model: ModelProto, name: str) -> TensorProto:
    found: list[TensorProto] = [t for t in model.graph.initializer if t.name == name]
    assert len(found) == 1
    return found[0]


def test_nothing_but_the_weight_changes() -> None:
    model = one_matmul(opset=17, ir=9)
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "7.1", "org.made", 42
    model.doc_string, model.graph.doc_string, model.graph.node[0].doc_string = "model", "graph", "node"
    model.graph.node[0].name = "the layer"
    for owner in (model, model.graph, model.graph.node[0], model.graph.input[0]):
        owner.metadata_props.append(onnx.StringStringEntryProto(key="author", value="somebody"))
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 64]))
    model.graph.initializer.append(numpy_helper.from_array(weight(7), "unread"))
    before = model.SerializeToString(deterministic=True)
    changed = mq.quantize(model).model
    assert model.SerializeToString(deterministic=True) == before
    (added,) = [node for node in changed.graph.node if node.domain == "mixquant"]
    changed.graph.node.remove(added)
    for tensor in [t for t in changed.graph.initializer if t.name in added.input]:
        changed.graph.initializer.remove(tensor)
    changed.opset_import.remove(next(o for o in changed.opset_import if o.domain == "mixquant"))
    changed.ClearField("functions")
    model.graph.initializer.remove(stored(model, "w"))
    assert changed == model


def test_raising_the_opset_keeps_documentation_and_results() -> None:
    model = text(
        """g (float[4,64] x, float[64,32] w) => (float[4] y) {
        [first] h = MatMul (x, w) [sum] s = ReduceSum <axes=[1], keepdims=1> (h) [drop] y = Squeeze <axes=[1]> (s) }""",
        opset=11, ir=7, w=weight(64, 32),
    )  # fmt: skip
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        node.metadata_props.append(onnx.StringStringEntryProto(key="from", value=node.name))
    result = mq.quantize(model, bits=[7])
    assert result.rewritten.opset == (11, 14)
    assert agreement(model, result.model) > 25
    kept = {node.name: node for node in result.model.graph.node if node.doc_string}
    assert {name: (n.op_type, n.doc_string, n.metadata_props[0].value) for name, n in kept.items()} == {
        "first": ("MatMul", "doc of first", "first"),
        "sum": ("ReduceSum", "doc of sum", "sum"),
        "drop": ("Squeeze", "doc of drop", "drop"),
    }


def test_biases_and_normalisation_stay_float() -> None:
    ones, values = np.ones(512, np.float32), [weight(512, seed=seed) for seed in range(4)]
    model = text(
        """g (float[1,8,6,6] x, float[512,8,3,3] w, float[512] b, float[512] s, float[512] o, float[512] m,
        float[512] v, float[512] l) => (float[1,4,4,512] y) { c = Conv (x, w, b)
        n = BatchNormalization (c, s, o, m, v) t = Transpose <perm=[0,2,3,1]> (n) y = LayerNormalization (t, l) }""",
        w=weight(512, 8, 3, 3), b=values[0], s=values[1], o=values[2], m=values[3], v=ones, l=ones,
    )  # fmt: skip
    result = mq.quantize(model)
    assert list(result.plan.sites) == ["w"]
    assert result.plan.skipped["b"] == "input 2 of Conv is not a weight"
    assert result.plan.skipped["l"] == "input 1 of LayerNormalization is not a weight"
    for name in ("b", "s", "o", "m", "v", "l"):
        assert stored(result.model, name) == stored(model, name)


@pytest.mark.parametrize("ir", [4, 8])
def test_an_initializer_that_the_caller_may_replace_is_left_alone(ir: int) -> None:
    model = as_input(two_layers(ir=ir, opset=9), "w")
    result = mq.quantize(model)
    assert list(result.plan.sites) == ["v"]
    assert result.plan.skipped == {"w": "also a graph input: the caller may replace it"}
    assert stored(result.model, "w") == stored(model, "w")
    assert [value.name for value in result.model.graph.input] == ["x", "w"]


@pytest.mark.parametrize("bits", [4, 8])
def test_initializers_of_an_ir_3_model_are_quantized_and_no_inputs_any_more(bits: int) -> None:
    model = as_input(as_input(two_layers(ir=3, opset=9), "v"), "w")
    result = mq.quantize(model, bits=[bits])
    assert set(result.plan.sites) == {"v", "w"}
    assert result.model.ir_version >= 8
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert any(note.startswith("IR version 3 raised to") for note in result.rewritten.notes)
    assert agreement(model, result.model) > (10 if bits == 4 else 35)


def test_a_weight_that_is_an_output_keeps_its_name() -> None:
    model = text("g (float[N,512] x, float[640,512] w) => (float[N,640] y, float[640,512] w) "
                 "{ y = Gemm <transB=1> (x, w) }", w=weight(640, 512))  # fmt: skip
    result = mq.quantize(model, bits=[8])
    assert [value.name for value in result.model.graph.output] == ["y", "w"]
    assert not float_tensors(result.model)
    assert agreement(model, result.model) > 35


def test_names_that_are_taken_are_not_used_again() -> None:
    model = text("""g (float[N,64] x, float[64,32] w, float[N,32] c) => (float[N,32] y)
        { [taken] a = MatMul (x, w) b = Relu (c) y = Add (a, b) }""", w=weight(64, 32))  # fmt: skip
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = {"a": "w.scale", "b": "w.plane4", "c": "w.zero_point"}.get(name, name)
    model.graph.input[1].name, model.graph.node[0].name = "w.zero_point", "w.dequantize"
    result = mq.quantize(model, bits=[6])
    onnx.checker.check_model(result.model)
    assert agreement(model, result.model) > 25
    named = [node.name for node in result.model.graph.node if node.name]
    assert "w.dequantize" in named and len(named) == len(set(named))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_with_nan_or_infinity_is_left_float(bad: float) -> None:
    model = two_layers()
    broken = weight(64, 32)
    broken[3, 3] = bad
    stored(model, "w").CopyFrom(numpy_helper.from_array(broken, "w"))
    result = mq.quantize(model, verify=False)
    assert list(result.plan.sites) == ["v"]
    assert result.plan.skipped == {"w": "holds NaN or Inf"}
    assert stored(result.model, "w") == stored(model, "w")


@pytest.mark.usefixtures("stored_at_a_loss")
@pytest.mark.parametrize("target", ["ort", "qdq"])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_a_model_of_another_float_type_keeps_it(kind: str, bits: int, target: str) -> None:
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "double": np.float64}[kind]
    model = text(MATMUL.replace("float", kind), w=weight(64, 32, dtype=dtype))
    result = mq.quantize(model, bits=[bits], target=target)
    onnx.checker.check_model(result.model)
    assert not float_tensors(result.model)
    assert result.verification is not None and result.verification.codes == 1
    if kind == "bfloat16":
        assert "the verification is on the codes alone" in result.verification.notes[0]
    else:
        assert run(result.model, feed_for(model))[0].dtype == dtype
        assert agreement(model, result.model) > 6 * bits - 14


def test_a_quantized_model_has_nothing_left_to_quantize() -> None:
    once = mq.quantize(two_layers())
    with pytest.raises(mq.UnchangedError, match="nothing was quantized"):
        mq.quantize(once.model)


def test_a_weight_behind_dequantize_linear_is_not_quantized_again() -> None:
    model = text("""g (float[N,64] x, int8[64,32] q, float s) => (float[N,32] y)
        { w = DequantizeLinear (q, s) y = MatMul (x, w) }""",
                 q=np.ones((64, 32), np.int8), s=np.array(0.5, np.float32))  # fmt: skip
    with pytest.raises(mq.UnchangedError):
        mq.quantize(model)
    assert mq.quantize(model, allow_unchanged=True).model == model


def test_a_sparse_initializer_is_left_alone() -> None:
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { h = MatMul (x, s) y = MatMul (h, w) }",
                 w=weight(64, 32))  # fmt: skip
    values = numpy_helper.from_array(weight(600), "s")
    places = numpy_helper.from_array(np.arange(0, 3600, 6, dtype=np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [64, 64]))
    result = mq.quantize(model, bits=[8])
    assert result.plan.skipped == {"s": "sparse initializer"}
    assert result.model.graph.sparse_initializer == model.graph.sparse_initializer
    assert agreement(model, result.model) > 35


def test_small_empty_and_scalar_tensors_are_left_alone() -> None:
    model = text("""g (float[N,64] x, float[64,16] w, float[16,1] u, float e, float[0] n) => (float[N,1] y, float[0] z)
        { a = MatMul (x, w) b = Mul (a, e) y = MatMul (b, u) z = Identity (n) }""", w=weight(64, 16), u=weight(16, 1),
                 e=np.array(2, np.float32), n=np.zeros(0, np.float32))  # fmt: skip
    result = mq.quantize(model, min_size=1)
    assert list(result.plan.sites) == ["w"]
    assert "as much as float" in result.plan.skipped["u"]
    assert stored(result.model, "u") == stored(model, "u")


def test_numbers_stored_as_float_data_are_read() -> None:
    model = one_matmul()
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [64, 32], weight(64, 32).reshape(-1).tolist())
    assert not tensor.raw_data
    stored(model, "w").CopyFrom(tensor)
    assert mq.quantize(model, bits=[8]).model == mq.quantize(one_matmul(), bits=[8]).model


def test_a_model_without_inputs_is_quantized() -> None:
    model = text("g (float[8,64] v, float[64,32] w) => (float[8,32] y) { y = MatMul (v, w) }",
                 v=weight(8, 64), w=weight(64, 32))  # fmt: skip
    result = mq.quantize(model, bits=[8])
    assert set(result.plan.sites) == {"v", "w"}
    assert agreement(model, result.model) > 35


def test_a_graphsurgeon_graph_is_accepted() -> None:
    model = one_matmul()
    result = mq.quantize(gs.import_onnx(model), bits=[8])
    assert agreement(model, result.model) > 35


def with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(two_layers(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=16)
    return path


def test_external_data_comes_in_and_goes_out(tmp_path: Path) -> None:
    source, output = with_external_data(tmp_path), tmp_path / "out" / "small.onnx"
    output.parent.mkdir()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("model*")}
    result = mq.quantize(source, output, bits=[8])
    assert {file.name: file.read_bytes() for file in tmp_path.glob("model*")} == before
    assert sorted(output.parent.iterdir()) == [output, output.parent / "small.onnx.data"]
    assert result.nbytes_before == sum(map(len, before.values()))
    assert result.nbytes_after == sum(file.stat().st_size for file in output.parent.iterdir())
    assert agreement(two_layers(), str(output)) > 35


def test_a_model_with_external_data_is_replaced_in_place(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    result = mq.quantize(path, path, bits=[8])
    assert result.files[0] == path and all(file.exists() for file in result.files)
    feed = feed_for(two_layers())
    assert decibels(run(two_layers(), feed)[0], run(str(path), feed)[0]) > 35
    assert ops(onnx.load(path, load_external_data=False))[-2:] == ["MatMul", "MatMul"]


def test_a_model_is_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path)
    result = mq.quantize(path, path, bits=[8])
    assert list(tmp_path.iterdir()) == [path]
    assert result.nbytes_after == path.stat().st_size < result.nbytes_before
    assert agreement(two_layers(), str(path)) > 35
