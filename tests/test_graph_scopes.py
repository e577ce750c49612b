"""Weights of branches, loops and functions, and the functions that a rewrite adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import agreement, float_tensors, nodes, optimized, quantize, readers, text, weight

import mixquant_onnx as mq

LOCAL = ', "local" : 1'

BRANCHES = """g (bool c, float[N,64] x%s) => (float[N,32] y) { y = If (c) <
    then_branch = t () => (float[N,32] p) { %s p = MatMul (x, w) },
    else_branch = e () => (float[N,32] q) { %s h = Relu (x) q = MatMul (h, w) }> }"""


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_weights_of_branches_are_quantized(where: str) -> None:
    constant = "w = Constant <value=float[1] {0}> ()" if where == "inside" else ""
    model = text(BRANCHES % ("" if constant else ", float[64,32] w", constant, constant), w=weight(64, 32))
    result = quantize(model)
    sites = [(located.site.tensor, len(located.site.uses)) for located in result.sites.values()]
    assert sites == ([("w", 2)] if where == "outside" else [("w", 1), ("w", 1)])
    assert not float_tensors(result.model)
    assert len(readers(result.model, "w")) == 2


@pytest.mark.parametrize("op", ["MatMul", "Gemm <transB=1>"])
@pytest.mark.parametrize("size", [64, 512])
def test_a_weight_from_outside_is_read_in_a_loop_body(op: str, size: int) -> None:
    model = text(f"""g (float[6,{size}] x, float[{size},{size}] w) => (float[6,{size}] y) {{
        n = Constant <value=int64 {{3}}> () c = Constant <value=bool {{1}}> ()
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[6,{size}] h) => (bool l, float[6,{size}] o)
            {{ l = Identity (k) o = {op} (h, w) }}> }}""", w=weight(size, size))  # fmt: skip
    result = quantize(model)
    assert list(result.plan.sites) == ["w"]
    assert not float_tensors(result.model)


READ_BY = {
    "a MatMul": "y = MatMul (x, w)",
    "a Gemm": "y = Gemm (x, w)",
    "two": "h = MatMul (x, w) y = MatMul (h, w)",
    "a MatMul and a sum": "h = MatMul (x, w) s = ReduceSum (w) y = Add (h, s)",
    "a branch": """y = If (d) <then_branch = t () => (float[N,512] p) {
        p = MatMul (x, w) }, else_branch = e () => (float[N,512] q) { q = Relu (x) }>""",
    "a loop": """n = Constant <value=int64 {3}> () c = Constant <value=bool {1}> ()
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[6,512] h) => (bool l, float[6,512] o)
            { l = Identity (k) o = MatMul (h, w) }>""",
}


@pytest.mark.parametrize("readers", READ_BY)
def test_nothing_is_dequantized_at_every_call(readers: str, tmp_path: Path) -> None:
    model = text(f"g (float[6,512] x, bool d, float[512,512] w) => (float[6,512] y) {{ {READ_BY[readers]} }}",
                 w=weight(512, 512))  # fmt: skip
    for bits in (7, 8):
        left = optimized(mq.quantize(model, bits=[bits], fused="always").model, tmp_path)
        assert "DequantizeLinear" not in left
        alone = ("a MatMul", "a Gemm") if bits == 7 else ("a MatMul", "a Gemm", "two")
        assert ("MatMulNBits" in left) == (readers in alone), bits


def test_a_constant_inside_a_function_is_quantized_there() -> None:
    model = text("""g (float[N,64] x) => (float[N,32] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 17]>
        f (a) => (r) { w = Constant <value=float[1] {0}> () r = MatMul (a, w) }""",
                 imports=LOCAL, w=weight(64, 32))  # fmt: skip
    result = quantize(model)
    assert not float_tensors(result.model)
    (function,) = [f for f in result.model.functions if f.name == "f"]
    assert {"", "mixquant"} == {o.domain for o in function.opset_import}


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm <transB=1>"])
@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("include", [[], ["w"]], ids=["all", "one of two"])
def test_a_weight_passed_to_a_function_is_quantized_at_the_call(op: str, size: int, include: list[str]) -> None:
    model = text(f"""g (float[N,{size}] x, float[{size},{size}] w, float[{size},{size}] u) => (float[N,{size}] y)
        {{ h = local.f (x, w) y = local.f (h, u) }}
        <domain: "local", opset_import: ["" : 17]> f (a, k) => (r) {{ r = {op} (a, k) }}""",
                 imports=LOCAL, w=weight(size, size), u=weight(size, size, seed=1))  # fmt: skip
    result = quantize(model, include=include)
    assert float_tensors(result.model) == ({"u"} if include else set())
    assert len([node for node in nodes(result.model) if node.domain == "local"]) == 2


def test_a_function_keeps_an_opset_above_that_of_the_model() -> None:
    model = text("""g (float[N,64] x, float[64,32] w) => (float[N,32] y) { y = local.f (x, w) }
        <domain: "local", opset_import: ["" : 18]>
        f (a, k) => (r) { h = MatMul (a, k) i = Constant <value=int64[1] {1}> () m = ReduceMax (h, i) r = Sub (h, m) }
        """, opset=13, imports=LOCAL, w=weight(64, 32))  # fmt: skip
    result = mq.quantize(model, bits=[4])
    versions = [o.version for f in result.model.functions if f.name == "f" for o in f.opset_import if not o.domain]
    assert versions and versions[0] >= 18


def test_a_model_quantized_in_two_steps_is_quantized_whole() -> None:
    model = text("g (float[N,64] x, float[64,64] v, float[64,32] w) => (float[N,32] y) "
                 "{ h = MatMul (x, v) y = MatMul (h, w) }", v=weight(64, 64), w=weight(64, 32))  # fmt: skip
    once = mq.quantize(model, include=["w"], bits=[7])
    twice = mq.quantize(once.model, bits=[7])
    assert list(twice.plan.sites) == ["v"]
    assert not float_tensors(twice.model)
    assert agreement(model, twice.model) > 30


def test_a_function_of_the_same_name_is_not_called() -> None:
    model = text("""g (float[N,64] x, float[64,32] w) => (float[N,32] y)
        { h = mixquant.DequantizeLinear8 (x) y = MatMul (h, w) }
        <domain: "mixquant", opset_import: ["" : 17]> DequantizeLinear8 (a) => (r) { r = Neg (a) }""",
                 imports=', "mixquant" : 1', w=weight(64, 32))  # fmt: skip
    assert len({function.name for function in quantize(model).model.functions}) == 2
