"""Forms of public reports in which a weight is scaled before it is used, or is not read where it is stored."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Array, agreement, float_tensors, nodes, optimized, put, quantize, text, weight
from onnx import ModelProto, helper
from rich.console import Console

import mixquant_onnx as mq
from mixquant_onnx.model.layer_inputs import feature_of
from mixquant_onnx.model.weights import find
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.sections import parts_of
from mixquant_onnx.report.summary import summary_of
from mixquant_onnx.report.terminal import show

TARGETS = pytest.mark.parametrize("target", ["ort", "qdq"])


def shape(name: str, *sizes: int) -> str:
    """A Constant node as text."""
    return f"{name} = Constant <value=int64[{len(sizes)}] {{{','.join(map(str, sizes))}}}> ()"


def modulated(n: int, reshape: str) -> tuple[str, dict[str, Array]]:
    """A kernel for each of `n` inputs, from one that is scaled by a style and normalised; `reshape` makes `w`."""
    graph = f"""(float[{n},8,9,9] x, float[{n},8] s, float[1,16,8,3,3] v, int64[3] axes, int64[1] z, int64[1] o)
        => (float[{n},16,7,7] y) {{ {shape("a", -1, 1, 8, 1, 1)} t = Reshape (s, a) m = Mul (v, t)
        p = Mul (m, m) q = ReduceSum <keepdims=1> (p, axes) d = Sqrt (q) k = Div (m, d) {reshape}
        {shape("b", 1, -1, 9, 9)} g = Reshape (x, b) c = Conv <group={n}> (g, w)
        {shape("e", -1, 16, 7, 7)} y = Reshape (c, e) }}"""
    small = {"axes": np.array([2, 3, 4]), "z": np.array([0]), "o": np.array([1])}
    return graph, {"v": weight(1, 16, 8, 3, 3), **small}


KERNEL = "(float[1,8,9,9] x, float[16,8,3,3] v, float[16,1,1,1] s) => (float[1,16,7,7] y)"
FIXED = f"{shape('h', -1, 8, 3, 3)} w = Reshape (k, h)"
COMPUTED = f"""u = Shape (x) i = Slice (u, z, o) {shape("j", 16)} r = Mul (i, j) {shape("h", 8, 3, 3)}
    l = Concat <axis=0> (r, h) w = Reshape (k, l)"""
SCALED: dict[str, tuple[str, dict[str, Array]]] = {
    "weight norm": (
        f"{KERNEL} {{ n = ReduceL2 <axes=[1,2,3], keepdims=1> (v) d = Div (v, n) w = Mul (s, d) y = Conv (x, w) }}",
        {"v": weight(16, 8, 3, 3), "s": weight(16, 1, 1, 1)},
    ),
    "weight standardization": (
        f"{KERNEL} {{ m = ReduceMean <axes=[1,2,3], keepdims=1> (v) d = Sub (v, m) w = Div (d, s) y = Conv (x, w) }}",
        {"v": weight(16, 8, 3, 3), "s": np.full((16, 1, 1, 1), 0.3, np.float32)},
    ),
    "a gain for all": (
        "(float[N,64] x, float[64,33] v, float s) => (float[N,33] y) { w = Mul (v, s) y = MatMul (x, w) }",
        {"v": weight(64, 33), "s": np.array(0.125, np.float32)},
    ),
    "a gain for each output": (
        "(float[N,64] x, float[64,33] v, float[33] s) => (float[N,33] y) { w = Mul (s, v) y = MatMul (x, w) }",
        {"v": weight(64, 33), "s": weight(33)},
    ),
    "a gain for each input": (
        "(float[N,64] x, float[33,64] v, float[64] s) => (float[N,33] y) { w = Div (v, s) y = Gemm <transB=1> (x, w) }",
        {"v": weight(33, 64), "s": np.linspace(0.5, 2, 64, dtype=np.float32)},
    ),
    "a gain of higher rank": (
        f"(float[N,64] x, float[64,33] v, float[1,1,33] s) => (float[N,33] y)"
        f"{{ {shape('a', 0)} t = Mul (v, s) w = Squeeze (t, a) y = MatMul (x, w) }}",
        {"v": weight(64, 33), "s": weight(1, 1, 33)},
    ),
    "a gain as large as a layer": (
        "(float[N,64] x, float[512,512] v, float[512] s, float[64,512] u) => (float[N,512] y)"
        "{ w = Mul (v, s) h = MatMul (x, u) y = MatMul (h, w) }",
        {"v": weight(512, 512), "s": weight(512), "u": weight(64, 512)},
    ),
    "a gain of a recurrent layer": (
        "(float[5,2,24] x, float[1,128,24] v, float[24] s, float[1,128,32] u) => (float[5,1,2,32] y)"
        "{ w = Mul (v, s) y = LSTM <hidden_size=32> (x, w, u) }",
        {"v": weight(1, 128, 24), "s": weight(24), "u": weight(1, 128, 32)},
    ),
    "a vector that is reshaped": (
        f"(float[N,64] x, float[2048] v, float s) => (float[N,32] y)"
        f"{{ {shape('a', 64, 32)} t = Mul (v, s) w = Reshape (t, a) y = MatMul (x, w) }}",
        {"v": weight(2048), "s": np.array(3, np.float32)},
    ),
    "modulated Conv": modulated(1, FIXED),
    "modulated Conv of several styles": modulated(3, FIXED),
    "modulated Conv of a computed shape": modulated(1, COMPUTED),
}


def model_of(graph: str, tensors: dict[str, Array]) -> ModelProto:
    model = text(f"g {graph}")
    for name, value in tensors.items():
        if any(value.name == name for value in model.graph.input):
            put(model, name, value)
    return model


@TARGETS
@pytest.mark.parametrize("granularity", ["channel", "block:32"])
@pytest.mark.parametrize("case", SCALED)
def test_a_weight_behind_a_scale_is_quantized(case: str, granularity: str, target: str, tmp_path: Path) -> None:
    model = model_of(*SCALED[case])
    result = quantize(model, target=target, granularity=granularity)
    assert set(result.plan.sites) == {"v", "u"} & set(SCALED[case][1])
    assert float_tensors(result.model) <= {"s"}
    assert result.verification is not None and result.verification.reference_sqnr_db is not None
    if target == "ort":
        assert sorted(optimized(result.model, tmp_path)) == sorted(optimized(model, tmp_path))


@pytest.mark.parametrize(
    ("case", "scales"),
    [("weight norm", [16, 1, 1, 1]), ("a gain for each output", [1, 33]), ("a gain for each input", [33, 1]),
     ("a gain of higher rank", [1, 33]),
     ("modulated Conv", [1, 16, 1, 1, 1]), ("modulated Conv of several styles", [1, 16, 1, 1, 1]),
     ("modulated Conv of a computed shape", [1, 16, 1, 1, 1])],
)  # fmt: skip
def test_each_channel_of_the_stored_tensor_has_its_scale(case: str, scales: list[int]) -> None:
    result = mq.quantize(model_of(*SCALED[case]))
    assert [list(t.dims) for t in result.model.graph.initializer if t.name == "v.scale"] == [scales]


@pytest.mark.parametrize("case", SCALED)
def test_inputs_of_the_product_are_not_taken_for_those_of_the_stored_weight(case: str) -> None:
    sites = find(model_of(*SCALED[case]), 256).sites
    assert set(sites) == {"v", "u"} & set(SCALED[case][1])
    assert feature_of(sites["v"]) is None


PRODUCT = "(float[{x}] x, float[{s}] s, float[{w}] w) => (float[{y}] y) {{ {op} y = MatMul (h, w) }}"
ONE_ROW = {"x": "N,512", "s": "512", "w": "512,8", "y": "N,8"}
SQUARE = {"x": "N,64,64", "s": "1,64,64", "w": "64,8", "y": "N,64,8"}
NOT_SCALED: dict[str, dict[str, str]] = {
    "a gain of activations": {**ONE_ROW, "op": "h = Mul (x, s)"},
    "a divisor of activations": {**ONE_ROW, "op": "h = Div (x, s)"},
    "frequencies": {**ONE_ROW, "x": "N,1", "s": "1,512", "op": "h = Mul (x, s)"},
    "a mask of activations": {**SQUARE, "op": "h = Mul (x, s)"},
    "a table of positions": {**SQUARE, "op": "h = Add (x, s)"},
    "positions of one token": {**SQUARE, "x": "N,1,64", "s": "64,64", "op": "h = Add (x, s)"},
    "a divisor of a constant": {
        **SQUARE,
        "s": "64,64",
        "op": "n = Constant <value=float {1}> () d = Div (n, s) h = MatMul (x, d)",
    },
    "a mask of what has an unknown shape": {**SQUARE, "s": "64,64", "op": "u = local.f (x) h = Mul (s, u)"},
}


@pytest.mark.parametrize("case", NOT_SCALED)
def test_what_scales_activations_is_no_weight(case: str) -> None:
    sizes = NOT_SCALED[case]
    tensors = {name: weight(*map(int, sizes[name].split(","))) for name in ("s", "w")}
    found = find(model_of(PRODUCT.format(**sizes), tensors), 256)
    assert list(found.sites) == ["w"]
    assert found.skipped["s"].endswith("is not a weight")


def with_floats(graph: str, **tensors: Array) -> ModelProto:
    """`graph` with `f` in the attribute value_floats of a Constant node."""
    model = model_of(graph, {k: v for k, v in tensors.items() if k != "f"})
    model.graph.node.insert(0, helper.make_node("Constant", [], ["f"], value_floats=tensors["f"].tolist()))
    onnx.checker.check_model(model)
    return model


@TARGETS
@pytest.mark.parametrize("bits", [4, 8])
def test_floats_in_an_attribute_of_a_constant_are_quantized(bits: int, target: str) -> None:
    model = with_floats(f"(float[N,64] x) => (float[N,32] y) {{ {shape('s', 64, 32)} w = Reshape (f, s) "
                        "y = MatMul (x, w) }", f=weight(2048))  # fmt: skip
    before = model.SerializeToString(deterministic=True)
    result = mq.quantize(model, target=target, bits=[bits])
    assert model.SerializeToString(deterministic=True) == before
    assert list(result.plan.sites) == ["f"]
    assert result.verification is not None and result.verification.reference_sqnr_db is not None
    assert result.verification.reference_sqnr_db > 100
    assert agreement(model, result.model) > 6 * bits - 10
    assert not any(a.name == "value_floats" for node in nodes(result.model) for a in node.attribute)


def test_floats_in_an_attribute_of_a_constant_that_are_no_weight_are_listed() -> None:
    model = with_floats("(float[N,512] x, float[512,8] w) => (float[N,8] y) { h = Mul (x, f) y = MatMul (h, w) }",
                        f=weight(512), w=weight(512, 8))  # fmt: skip
    result = quantize(model)
    assert dict(result.plan.skipped) == {"f": "input 1 of Mul is not a weight"}


def test_the_summary_says_how_many_bytes_stay_float() -> None:
    model = text("""g (float[N,64] x, float[64,512] w, float[512] b) => (float[N,512] y)
        { h = MatMul (x, w) y = Add (h, b) }""", w=weight(64, 512), b=weight(512))  # fmt: skip
    parts = parts_of(Run(planned=mq.inspect(model)))
    summary = summary_of(parts)
    assert summary["skipped"] == [{"name": "b", "reason": "input 1 of Add is not a weight", "nbytes": 2048}]
    assert summary["left_float"] == {"nbytes": 2048, "share": 2048 / model.ByteSize()}
    shown = StringIO()
    show(parts, Console(file=shown, width=120))
    assert f"left as float: {2048 / model.ByteSize():.1%} of the input's bytes" in shown.getvalue()
