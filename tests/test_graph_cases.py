"""Where weights are found and how each reader gets them back: operators and chains."""

from __future__ import annotations

import math

import pytest
from cases import Array, agreement, float_tensors, ops, put, quantize, readers, text, weight

import mixquant_onnx as mq

MICROSOFT = ', "com.microsoft" : 1'

OPERATORS: dict[str, tuple[str, dict[str, Array]]] = {
    "MatMul": ("(float[N,64] x, float[64,32] w) => (float[N,32] y) { y = MatMul (x, w) }", {"w": weight(64, 32)}),
    "MatMul on the left": (
        "(float[64,N] x, float[32,64] w) => (float[32,N] y) { y = MatMul (w, x) }",
        {"w": weight(32, 64)},
    ),
    "MatMul of rank 3": (
        "(float[4,N,64] x, float[4,64,33] w) => (float[4,N,33] y) { y = MatMul (x, w) }",
        {"w": weight(4, 64, 33)},
    ),
    "Gemm": (
        "(float[N,64] x, float[64,33] w, float[33] b) => (float[N,33] y) { y = Gemm (x, w, b) }",
        {"w": weight(64, 33), "b": weight(33)},
    ),
    "Gemm transB": (
        "(float[N,64] x, float[33,64] w, float[33] b) => (float[N,33] y) { y = Gemm <transB=1> (x, w, b) }",
        {"w": weight(33, 64), "b": weight(33)},
    ),
    "Gemm alpha": (
        "(float[N,64] x, float[33,64] w, float[33] b) => (float[N,33] y)"
        "{ y = Gemm <alpha=0.25, beta=3.0, transB=1> (x, w, b) }",
        {"w": weight(33, 64), "b": weight(33)},
    ),
    "Gemm without C": (
        "(float[N,64] x, float[64,33] w) => (float[N,33] y) { y = Gemm (x, w) }",
        {"w": weight(64, 33)},
    ),
    "Gemm of a weight on the left": (
        "(float[64,7] x, float[64,33] w) => (float[33,7] y) { y = Gemm <transA=1> (w, x) }",
        {"w": weight(64, 33)},
    ),
    "Conv of 1 dimension": (
        "(float[1,16,20] x, float[24,16,3] w) => (float[1,24,18] y) { y = Conv (x, w) }",
        {"w": weight(24, 16, 3)},
    ),
    "Conv of 2 dimensions": (
        "(float[1,8,9,9] x, float[16,8,3,3] w, float[16] b) => (float[1,16,7,7] y) { y = Conv (x, w, b) }",
        {"w": weight(16, 8, 3, 3), "b": weight(16)},
    ),
    "Conv of 3 dimensions in groups": (
        "(float[1,16,5,5,5] x, float[24,8,3,3,3] w) => (float[1,24,3,3,3] y) { y = Conv <group=2> (x, w) }",
        {"w": weight(24, 8, 3, 3, 3)},
    ),
    "ConvTranspose": (
        "(float[1,32,5,5] x, float[32,24,3,3] w) => (float[1,24,7,7] y) { y = ConvTranspose (x, w) }",
        {"w": weight(32, 24, 3, 3)},
    ),
    "ConvTranspose in groups": (
        "(float[1,32,5,5] x, float[32,12,3,3] w) => (float[1,24,7,7] y) { y = ConvTranspose <group=2> (x, w) }",
        {"w": weight(32, 12, 3, 3)},
    ),
    "Gather": (
        "(int64[N,6] i, float[100,64] w) => (float[N,6,64] y) { y = Gather (w, i) }",
        {"w": weight(100, 64)},
    ),
    "Gather on axis 1": (
        "(int64[N] i, float[64,33] w) => (float[64,N] y) { y = Gather <axis=1> (w, i) }",
        {"w": weight(64, 33)},
    ),
    "LSTM": (
        "(float[5,2,24] x, float[1,128,24] w, float[1,128,32] r) => (float[5,1,2,32] y)"
        "{ y = LSTM <hidden_size=32> (x, w, r) }",
        {"w": weight(1, 128, 24), "r": weight(1, 128, 32)},
    ),
    "GRU": (
        "(float[5,2,24] x, float[2,96,24] w, float[2,96,32] r) => (float[5,2,2,32] y)"
        '{ y = GRU <hidden_size=32, direction="bidirectional"> (x, w, r) }',
        {"w": weight(2, 96, 24), "r": weight(2, 96, 32)},
    ),
    "RNN": (
        "(float[5,2,24] x, float[1,32,24] w, float[1,32,32] r) => (float[5,1,2,32] y)"
        "{ y = RNN <hidden_size=32> (x, w, r) }",
        {"w": weight(1, 32, 24), "r": weight(1, 32, 32)},
    ),
    "Einsum": (
        '(float[N,64] x, float[64,33] w) => (float[N,33] y) { y = Einsum <equation="nk,km->nm"> (x, w) }',
        {"w": weight(64, 33)},
    ),
    "FusedMatMul": (
        "(float[N,64] x, float[33,64] w) => (float[N,33] y)"
        "{ y = com.microsoft.FusedMatMul <transB=1, alpha=0.5> (x, w) }",
        {"w": weight(33, 64)},
    ),
    "Attention": (
        "(float[2,6,64] x, float[64,192] w, float[192] b) => (float[2,6,64] y)"
        "{ y = com.microsoft.Attention <num_heads=4> (x, w, b) }",
        {"w": weight(64, 192), "b": weight(192)},
    ),
}

CHAINS = {
    "Identity": ("64,32", "v = Identity (w)"),
    "Transpose": ("32,64", "v = Transpose (w)"),
    "Transpose of rank 3": ("32,1,64", "t = Transpose <perm=[1,2,0]> (w) s = Constant <value=int64[1] {0}> () "
                            "v = Squeeze (t, s)"),
    "Reshape": ("2,32,32", "s = Constant <value=int64[2] {0,-1}> () t = Reshape (w, s) "
                "p = Constant <value=int64[2] {64,32}> () v = Reshape (t, p)"),
    "Reshape that mixes the axes": ("32,64", "s = Constant <value=int64[2] {64,32}> () v = Reshape (w, s)"),
    "Squeeze": ("1,64,32", "s = Constant <value=int64[1] {0}> () v = Squeeze (w, s)"),
    "Unsqueeze": ("2048", "s = Constant <value=int64[1] {0}> () t = Unsqueeze (w, s) "
                  "p = Constant <value=int64[2] {64,32}> () v = Reshape (t, p)"),
    "Flatten": ("64,8,4", "v = Flatten <axis=1> (w)"),
    "Cast": ("64,32", "v = Cast <to=1> (w)"),
}  # fmt: skip


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block:32"])
@pytest.mark.parametrize("target", ["ort", "qdq"])
@pytest.mark.parametrize("case", OPERATORS)
def test_the_weights_of_an_operator_are_replaced_and_its_output_stays(case: str, target: str, granularity: str) -> None:
    graph, tensors = OPERATORS[case]
    weights = {name: value for name, value in tensors.items() if name != "b"}
    model = text(f"g {graph}", imports=MICROSOFT)
    for name, value in tensors.items():
        put(model, name, value)
    result = quantize(model, target=target, granularity=granularity)
    assert set(result.plan.sites) == set(weights)
    assert not float_tensors(result.model)
    assert ops(result.model)[-1] == ops(model)[-1]
    assert ("DequantizeLinear" in ops(result.model)) == (target == "qdq")


@pytest.mark.parametrize(
    ("case", "channels"),
    [("MatMul", [32]), ("MatMul on the left", [32]), ("MatMul of rank 3", [4 * 33]), ("Gemm transB", [33]),
     ("Gemm of a weight on the left", [33]), ("Conv of 3 dimensions in groups", [24]), ("ConvTranspose", [24]),
     ("ConvTranspose in groups", [12]), ("Gather", [100]), ("LSTM", [128, 128]), ("GRU", [2 * 96, 2 * 96]),
     ("FusedMatMul", [33]), ("Attention", [192])],
)  # fmt: skip
def test_each_output_channel_has_its_scale(case: str, channels: list[int]) -> None:
    graph, tensors = OPERATORS[case]
    model = text(f"g {graph}", imports=MICROSOFT)
    for name, value in tensors.items():
        put(model, name, value)
    result = mq.quantize(model, granularity="channel", data_free=True)
    scales = [tensor for tensor in result.model.graph.initializer if tensor.name.endswith(".scale")]
    assert [math.prod(tensor.dims) for tensor in scales] == channels


@pytest.mark.parametrize("target", ["ort", "qdq"])
@pytest.mark.parametrize("granularity", ["channel", "block:32"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_weight_behind_a_chain_is_quantized_where_it_is_stored(chain: str, granularity: str, target: str) -> None:
    shape, steps = CHAINS[chain]
    kind = "double" if chain == "Cast" else "float"
    values = weight(*map(int, shape.split(",")), dtype="float64" if chain == "Cast" else "float32")
    model = text(f"g (float[N,64] x, {kind}[{shape}] w) => (float[N,32] y) {{ {steps} y = MatMul (x, v) }}", w=values)
    result = quantize(model, granularity=granularity, target=target)
    assert list(result.plan.sites) == ["w"]
    assert not float_tensors(result.model)
    assert ops(result.model)[-len(ops(model)) :] == ops(model)


def test_a_channel_is_followed_through_a_transpose() -> None:
    model = text("g (float[N,64] x, float[32,64] w) => (float[N,32] y) { v = Transpose (w) y = MatMul (x, v) }",
                 w=weight(32, 64))  # fmt: skip
    result = quantize(model)
    assert [t.dims for t in result.model.graph.initializer if t.name == "w.scale"] == [[32, 1]]
    assert not result.sites["w"].site.uses[0].direct


def test_a_large_weight_behind_a_transpose_is_not_fused() -> None:
    model = text("g (float[N,512] x, float[640,512] w) => (float[N,640] y) { v = Transpose (w) y = MatMul (x, v) }",
                 w=weight(640, 512))  # fmt: skip
    assert quantize(model, fused="always").rewritten.forms == {"w": "folded"}


def test_a_weight_that_two_nodes_read_is_stored_once() -> None:
    model = text("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { h = MatMul (x, w) y = MatMul (h, w) }",
                 w=weight(64, 64))  # fmt: skip
    result = quantize(model, bits=[8])
    assert len(result.plan.sites) == 1 and len(result.sites["w"].site.uses) == 2
    assert len([t for t in result.model.graph.initializer if t.name.startswith("w.codes")]) == 1
    assert len(readers(result.model, "w")) == 2
    assert result.model.ByteSize() < 64 * 64 * 1.3


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block:32"])
def test_an_embedding_tied_to_the_output_layer_is_stored_once(granularity: str) -> None:
    model = text("""g (int64[N,6] i, float[100,64] w) => (float[N,6,100] y)
        { e = Gather (w, i) v = Transpose <perm=[1,0]> (w) y = MatMul (e, v) }""", w=weight(100, 64))  # fmt: skip
    result = quantize(model, granularity=granularity)
    assert {use.op for use in result.sites["w"].site.uses} == {"Gather", "MatMul"}
    assert not float_tensors(result.model)
    assert len(readers(result.model, "w")) == 2


@pytest.mark.parametrize("shape", [(512, 512), (640, 512)], ids=["square", "oblong"])
@pytest.mark.parametrize("bits", [4, 8])
def test_gemm_with_trans_b_becomes_a_fused_matmul(shape: tuple[int, int], bits: int) -> None:
    n, k = shape
    model = text(f"""g (float[N,{k}] x, float[{n},{k}] w, float[{n}] b) => (float[N,{n}] y)
        {{ y = Gemm <transB=1> (x, w, b) }}""", w=weight(n, k), b=weight(n))  # fmt: skip
    result = mq.quantize(model, bits=[bits], fused="always")
    assert result.rewritten.forms == {"w": f"MatMulNBits {bits}"}
    assert ops(result.model)[-2:] == ["MatMulNBits", "Add"]
    assert agreement(model, result.model) > (15 if bits == 4 else 35)
    assert [o.name for o in result.model.graph.output] == ["y"]


def test_gemm_with_alpha_stays_gemm() -> None:
    model = text("g (float[N,512] x, float[512,640] w) => (float[N,640] y) { y = Gemm <alpha=0.5> (x, w) }",
                 w=weight(512, 640))  # fmt: skip
    result = quantize(model, fused="always")
    assert ops(result.model)[-1] == "Gemm"
    assert result.rewritten.forms == {"w": "folded"}


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_a_constant_node_is_replaced(target: str) -> None:
    model = text("g (float[N,64] x) => (float[N,32] y) { w = Constant <value=float[1] {0}> () y = MatMul (x, w) }",
                 w=weight(64, 32))  # fmt: skip
    result = quantize(model, target=target)
    assert list(result.plan.sites) == ["w"]
    assert "Constant" not in ops(result.model) and not float_tensors(result.model)
