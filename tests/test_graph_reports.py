"""Graphs on which other quantizers were reported to fail: each is written, proved and run under both targets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import Array, decibels, float_tensors, put, quantize, run, text, weight
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.summary import summarize

TARGETS = pytest.mark.parametrize("target", ["ort", "qdq"])
LOCAL = ', "local" : 1, "com.microsoft" : 1'
LOOP = "n = Constant <value=int64 {3}> () c = Constant <value=bool {1}> ()"
LOWEST = float(np.finfo(np.float32).min)

GRAPHS: dict[str, tuple[str, Mapping[str, Array]]] = {
    "one weight in both branches and outside": (
        """(bool c, float[N,64] x, float[64,64] w) => (float[N,64] y) { h = MatMul (x, w) y = If (c) <
        then_branch = t () => (float[N,64] p) { p = MatMul (h, w) },
        else_branch = e () => (float[N,64] q) { k = Transpose (w) q = MatMul (h, k) }> }""",
        {"w": weight(64, 64)},
    ),
    "a weight of the outside, two graphs further in": (
        f"""(bool d, float[6,32] x, float[32,32] w) => (float[6,32] y) {{ {LOOP}
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[6,32] a) => (bool l, float[6,32] o) {{ l = Identity (k)
            o = If (d) <then_branch = t () => (float[6,32] p) {{ p = MatMul (a, w) }},
                        else_branch = e () => (float[6,32] q) {{ q = Gemm <transB=1> (a, w) }}> }}> }}""",
        {"w": weight(32, 32)},
    ),
    "a weight of the outside in Scan": (
        """(float[4,32] h, float[3,4,32] x, float[32,32] w) => (float[4,32] y, float[3,4,32] z) {
        y, z = Scan <num_scan_inputs=1, body = b (float[4,32] s, float[4,32] i) => (float[4,32] t, float[4,32] o)
            { m = MatMul (s, w) t = Tanh (m) o = Add (t, i) }> (h, x) }""",
        {"w": weight(32, 32)},
    ),
    "functions in functions": (
        """(float[N,64] x, float[64,64] w) => (float[N,64] y) { y = local.f (x, w) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> f (a, k) => (r)
            { t = Transpose (k) h = local.g (a, t) r = local.g (h, k) }
        <domain: "local", opset_import: ["" : 17]> g (a, k) => (r) { m = MatMul (a, k) r = Relu (m) }""",
        {"w": weight(64, 64)},
    ),
    "an embedding that is the last layer too, as Gemm": (
        """(int64[6] i, float[100,64] w) => (float[6,100] y) { e = Gather (w, i) y = Gemm <transB=1> (e, w) }""",
        {"w": weight(100, 64)},
    ),
    "an embedding that is the last layer too, by Einsum": (
        """(int64[2,6] i, float[100,64] w) => (float[2,6,100] y)
        { e = Gather (w, i) y = Einsum <equation="bsd,vd->bsv"> (e, w) }""",
        {"w": weight(100, 64)},
    ),
    "a weight that is the third operand": (
        """(float[2,6] a, float[6,32] b, float[32,24] w) => (float[2,24] y)
        { y = Einsum <equation="ij,jk,kl->il"> (a, b, w) }""",
        {"w": weight(32, 24)},
    ),
    "peepholes": (
        """(float[5,2,24] x, float[1,128,24] w, float[1,128,32] r, float[1,256] b, float[1,96] p)
        => (float[5,1,2,32] y) { y = LSTM <hidden_size=32> (x, w, r, b, , , , p) }""",
        {"w": weight(1, 128, 24), "r": weight(1, 128, 32), "b": weight(1, 256), "p": weight(1, 96)},
    ),
    "a recurrent layer with lengths and a state": (
        """(float[5,2,24] x, float[1,96,24] w, float[1,96,32] r) => (float[5,1,2,32] y, float[1,2,32] h) {
        l = Constant <value=int32[2] {5,3}> ()
        y, h = GRU <hidden_size=32, linear_before_reset=1> (x, w, r, , l) }""",
        {"w": weight(1, 96, 24), "r": weight(1, 96, 32)},
    ),
    "a mask of the lowest float": (
        """(float[2,6,32] x, bool[2,6,6] m, float[32,32] w, float[32,32] v, float lowest) => (float[2,6,32] y) {
        q = MatMul (x, w) k = Transpose <perm=[0,2,1]> (x) s = MatMul (q, k) u = Where (m, s, lowest)
        p = Softmax <axis=-1> (u) a = MatMul (p, x) y = MatMul (a, v) }""",
        {"w": weight(32, 32), "v": weight(32, 32), "lowest": np.array(LOWEST, np.float32)},
    ),
    "inputs left out": (
        """(float[N,64] x, float[64,32] w, float top) => (float[N,32] y) { h = MatMul (x, w) y = Clip (h, , top) }""",
        {"w": weight(64, 32), "top": np.array(0.5, np.float32)},
    ),
    "float16 behind Cast, of a Conv with its bias": (
        """(float[1,8,9,9] x, float16[16,8,3,3] w, float16[16] b) => (float[1,16,7,7] y)
        { v = Cast <to=1> (w) c = Cast <to=1> (b) y = Conv (x, v, c) }""",
        {"w": weight(16, 8, 3, 3, dtype=np.float16), "b": weight(16, dtype=np.float16)},
    ),
    "ConvTranspose in groups with a bias": (
        """(float[1,32,5,5] x, float[32,12,3,3] w, float[24] b) => (float[1,24,11,11] y)
        { y = ConvTranspose <group=2, strides=[2,2]> (x, w, b) }""",
        {"w": weight(32, 12, 3, 3), "b": weight(24)},
    ),
    "a product for each head, broadcast": (
        """(float[2,3,6,32] x, float[1,3,32,24] w) => (float[2,3,6,24] y) { y = MatMul (x, w) }""",
        {"w": weight(1, 3, 32, 24)},
    ),
    "a low-rank update": (
        """(float[N,64] x, float[64,48] w, float[64,8] a, float[8,48] b, float s) => (float[N,48] y)
        { u = MatMul (a, b) d = Mul (u, s) v = Add (w, d) y = MatMul (x, v) }""",
        {"w": weight(64, 48), "a": weight(64, 8), "b": weight(8, 48), "s": np.array(0.5, np.float32)},
    ),
    "a pruned weight times its mask": (
        """(float[N,64] x, float[64,48] w, float[64,48] m) => (float[N,48] y) { v = Mul (w, m) y = MatMul (x, v) }""",
        {"w": weight(64, 48), "m": (weight(64, 48, seed=3) > 0).astype(np.float32)},
    ),
    "channels that are all zero": (
        """(float[1,8,9,9] x, float[16,8,3,3] w) => (float[1,16,7,7] y) { y = Conv (x, w) }""",
        {"w": weight(16, 8, 3, 3) * (np.arange(16) % 3 > 0).astype(np.float32).reshape(16, 1, 1, 1)},
    ),
    "a sequence inside": (
        """(float[4,64] x, float[64,32] w) => (float[2,32] y) { k = Constant <value=int64 {2}> ()
        s = SplitToSequence <axis=0> (x, k) z = Constant <value=int64 {1}> () a = SequenceAt (s, z)
        y = MatMul (a, w) }""",
        {"w": weight(64, 32)},
    ),
    "an optional input": (
        """(float[1,4,8,8] x, float[8,4,3,3] w) => (float[1,8,12,12] y) { h = Conv (x, w)
        f = Constant <value=float[4] {1,1,2,2}> () y = Resize <mode="nearest"> (h, , f) }""",
        {"w": weight(8, 4, 3, 3)},
    ),
    "8 bits beside float": (
        """(int64[6] i, uint8[100,64] q, float s, uint8 z, float[64,48] w) => (float[6,48] y)
        { d = DequantizeLinear (q, s, z) e = Gather (d, i) y = MatMul (e, w) }""",
        {"q": np.arange(6400, dtype=np.int64).reshape(100, 64).astype(np.uint8), "s": np.array(0.01, np.float32),
         "z": np.array(128, np.uint8), "w": weight(64, 48)},
    ),
    "a normalisation of another domain": (
        """(float[2,6,64] x, float[2,6,64] k, float[64] g, float[64,48] w) => (float[2,6,48] y)
        { h = com.microsoft.SkipSimplifiedLayerNormalization (x, k, g) y = MatMul (h, w) }""",
        {"g": np.ones(64, np.float32), "w": weight(64, 48)},
    ),
}  # fmt: skip
STAYS: dict[str, set[str]] = {
    "peepholes": {"b", "p"}, "a mask of the lowest float": {"lowest"}, "inputs left out": {"top"},
    "float16 behind Cast, of a Conv with its bias": {"b"}, "ConvTranspose in groups with a bias": {"b"},
    "a low-rank update": {"s"}, "8 bits beside float": {"q", "s", "z"}, "an optional input": set(),
    "a normalisation of another domain": {"g"},
}  # fmt: skip


def model_of(case: str) -> ModelProto:
    graph, tensors = GRAPHS[case]
    model = text(f"g {graph}", imports=LOCAL)
    for name, value in tensors.items():
        put(model, name, value)
    return model


@TARGETS
@pytest.mark.parametrize("case", GRAPHS)
def test_the_graph_of_a_report_is_quantized_and_proved(case: str, target: str) -> None:
    model = model_of(case)
    result = quantize(model, target=target)
    wanted = set(GRAPHS[case][1]) - STAYS.get(case, set())
    assert set(result.plan.sites) == wanted
    assert float_tensors(result.model) <= STAYS.get(case, set())
    proof = result.verification
    assert proof is not None and proof.reference_sqnr_db is not None and proof.deployed is not None
    assert (proof.deployed.sqnr_db or 0) > 25


@pytest.mark.usefixtures("stored_at_a_loss")
@TARGETS
@pytest.mark.parametrize("case", GRAPHS)
def test_the_graph_of_a_report_is_written_in_any_width(case: str, target: str) -> None:
    for bits in (3, 6):
        result = mq.quantize(model_of(case), target=target, bits=[bits], min_size=256)
        onnx.checker.check_model(result.model)
        assert result.verification is not None and result.verification.codes == len(result.plan.sites) > 0


MOVES = {
    "directly": "b = Identity (a)",
    "behind Reshape": "b = Reshape (a, r)",
    "behind Transpose": "b = Transpose (a)",
}
SIDES = {"on the left": "y = MatMul (v, b)", "on the right": "y = MatMul (b, v)", "both": "y = MatMul (v, v)"}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block:16"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("move", MOVES)
def test_a_product_of_two_dequantized_values_runs(move: str, side: str, granularity: str) -> None:
    """ONNX Runtime makes it an integer product, whichever scales there are."""
    model = text(f"""g (float[64,64] x, float s, uint8 z, int64[2] r, float[64,64] v) => (float[64,64] y)
        {{ q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) {MOVES[move]} {SIDES[side]} }}""",
                 s=np.array(0.03, np.float32), z=np.array(128, np.uint8), r=np.array([64, 64]),
                 v=weight(64, 64))  # fmt: skip
    result = quantize(model, target="qdq", granularity=granularity)
    assert not float_tensors(result.model)
    fused = granularity == "tensor" or (granularity == "channel" and side == "on the right")
    assert set(result.rewritten.forms.values()) == {"DequantizeLinear" if fused else "folded"}


BEFORE = {
    "of fixed scale": "q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z)",
    "of a scale for each run": "q, t, o = DynamicQuantizeLinear (x) a = DequantizeLinear (q, t, o)",
}


@pytest.mark.parametrize("bits", [4, 5, 8])
@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm <transB=1>"])
@pytest.mark.parametrize("activations", BEFORE)
def test_a_large_weight_behind_quantized_activations_is_not_fused(activations: str, op: str, bits: int) -> None:
    """The integer product that ONNX Runtime makes of such activations takes no blocks, and fails when it is run."""
    model = text(f"""g (float[8,512] x, float s, uint8 z, float[512,512] v) => (float[8,512] y)
        {{ {BEFORE[activations]} y = {op} (a, v) }}""", opset=21, ir=10,
                 s=np.array(0.03, np.float32), z=np.array(128, np.uint8), v=weight(512, 512))  # fmt: skip
    result = mq.quantize(model, bits=[bits], fused="always")
    assert result.rewritten.forms == {"v": "folded"}
    assert result.verification is not None and result.verification.reference_sqnr_db is not None


SEQUENCES = {
    "a sequence is given": "(seq(float[2,64]) x, float[64,32] w) => (float[2,32] y) "
    "{ k = Constant <value=int64 {0}> () a = SequenceAt (x, k) y = MatMul (a, w) }",
    "a sequence comes out": "(float[4,64] x, float[64,32] w) => (seq(float[2,32]) y) "
    "{ h = MatMul (x, w) k = Constant <value=int64 {2}> () y = SplitToSequence <axis=0> (h, k) }",
    "an optional comes out": "(float[2,64] x, float[64,32] w) => (optional(float[2,32]) y) "
    "{ h = MatMul (x, w) y = Optional (h) }",
}


@TARGETS
@pytest.mark.parametrize("case", SEQUENCES)
def test_a_model_with_sequences_is_quantized(case: str, target: str) -> None:
    model = text(f"g {SEQUENCES[case]}", w=weight(64, 32))
    result = mq.quantize(model, target=target, bits=[8])
    assert list(result.plan.sites) == ["w"] and not float_tensors(result.model)
    x = weight(4, 64, seed=1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    answers = []
    for one in (model, result.model):
        session = onnxruntime.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = [x[:2], x[2:]] if "given" in case else x if "sequence" in case else x[:2]
        answers.append(np.asarray(session.run(None, {"x": given})[0], np.float32))
    assert decibels(*answers) > 35


@TARGETS
def test_a_model_of_strings_is_quantized(target: str) -> None:
    """Words in, numbers of words to an embedding, classes out by their names."""
    known = {"domain": "ai.onnx.ml"}
    nodes = [
        helper.make_node("LabelEncoder", ["s"], ["i"], keys_strings=["a", "b"], values_int64s=[1, 2], **known),
        helper.make_node("Abs", ["i"], ["p"]),
        helper.make_node("Gather", ["e", "p"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["m"], axis=1, keepdims=0),
        helper.make_node("LabelEncoder", ["m"], ["n"], keys_int64s=[0, 1], values_strings=["yes", "no"], **known),
    ]
    inputs = [helper.make_tensor_value_info("s", TensorProto.STRING, ["N"])]
    outputs = [helper.make_tensor_value_info("n", TensorProto.STRING, ["N"]),
               helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])]  # fmt: skip
    stored = [numpy_helper.from_array(weight(100, 64), "e"), numpy_helper.from_array(weight(64, 32), "w")]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    result = mq.quantize(model, target=target, bits=[8])
    assert set(result.plan.sites) == {"e", "w"} and not float_tensors(result.model)
    feed = {"s": np.array(["a", "b", "c"], object)}
    assert decibels(run(model, feed)[1], run(result.model, feed)[1]) > 35


@TARGETS
def test_a_sparse_initializer_beside_weights_is_listed_with_its_bytes(target: str) -> None:
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { h = MatMul (x, s) y = MatMul (h, w) }",
                 w=weight(64, 32))  # fmt: skip
    values = numpy_helper.from_array(weight(600), "s")
    places = numpy_helper.from_array(np.arange(0, 3600, 6, dtype=np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [64, 64]))
    quantize(model, target=target)
    summary = summarize(Run(planned=mq.inspect(model)))
    assert summary["skipped"] == [{"name": "s", "reason": "sparse initializer", "nbytes": 2400}]
    assert summary["left_float"]["nbytes"] == 2400


@TARGETS
def test_names_that_the_rewrite_would_give_are_left_to_their_owners(target: str) -> None:
    """Values, value_info and nodes that are called as new initializers and nodes would be."""
    model = text("""g (float[N,64] x, float[64,64] w, float[64,64] v) => (float[N,64] y) {
        a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }""", w=weight(64, 64), v=weight(64, 64))  # fmt: skip
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = {"a": "w.scale", "b": "w.codes"}.get(name, name)
    model.graph.node[0].name = "w.dequantize"
    model.graph.value_info.append(helper.make_tensor_value_info("w.scale", TensorProto.FLOAT, ["N", 64]))
    model.graph.value_info.append(helper.make_tensor_value_info("w.codes", TensorProto.FLOAT, ["N", 64]))
    result = quantize(model, target=target)
    assert set(result.plan.sites) == {"w", "v"}
    stored = [tensor.name for tensor in result.model.graph.initializer]
    assert not {"w.scale", "w.codes"} & set(stored) and len(stored) == len(set(stored))
