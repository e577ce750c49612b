"""Weights that reach their operator through a branch, a loop, a function or a table, and what stays float there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Array, agreement, float_tensors, nodes, optimized, put, quantize, readers, text, weight
from onnx import FunctionProto, ModelProto, helper

import mixquant_onnx as mq
from mixquant_onnx.model.layer_inputs import feature_of
from mixquant_onnx.model.weights import find

TARGETS = pytest.mark.parametrize("target", ["ort", "qdq"])
LOCAL = ', "local" : 1'
FUNCTION = '<domain: "local", opset_import: ["" : 17]>'
LOOP = "n = Constant <value=int64 {3}> () c = Constant <value=bool {1}> ()"

FLOW: dict[str, tuple[str, dict[str, Array]]] = {
    "out of both branches": (
        """(bool c, float[N,64] x) => (float[N,32] y) { w = If (c) <
        then_branch = t () => (float[64,32] p) { p = Constant <value=float[1] {0}> () },
        else_branch = e () => (float[64,32] q) { q = Constant <value=float[1] {0}> () }> y = MatMul (x, w) }""",
        {"p": weight(64, 32), "q": weight(64, 32, seed=1)},
    ),
    "through a branch": (
        """(bool c, float[N,64] x, float[64,32] p, float[64,32] q) => (float[N,32] y) { w = If (c) <
        then_branch = t () => (float[64,32] a) { a = Identity (p) },
        else_branch = e () => (float[64,32] b) { b = Identity (q) }> y = MatMul (x, w) }""",
        {"p": weight(64, 32), "q": weight(64, 32, seed=1)},
    ),
    "carried by Loop": (
        f"""(float[6,32] x, float[32,32] w) => (float[6,32] y) {{ {LOOP}
        h, v = Loop (n, c, x, w) <body = b (int64 i, bool k, float[6,32] a, float[32,32] d)
            => (bool l, float[6,32] o, float[32,32] e) {{ l = Identity (k) o = MatMul (a, d) e = Identity (d) }}>
        y = MatMul (h, v) }}""",
        {"w": weight(32, 32)},
    ),
    "one of Scan's steps": (
        """(float[4,32] x, float[3,32,32] w) => (float[4,32] y) { y = Scan <num_scan_inputs=1,
        body = b (float[4,32] h, float[32,32] k) => (float[4,32] o) { o = MatMul (h, k) }> (x, w) }""",
        {"w": weight(3, 32, 32)},
    ),
    "one of Scan's steps on axis 1": (
        """(float[4,32] x, float[32,3,32] w) => (float[4,32] y) { y = Scan <num_scan_inputs=1, scan_input_axes=[1],
        body = b (float[4,32] h, float[32,32] k) => (float[4,32] o) { o = MatMul (h, k) }> (x, w) }""",
        {"w": weight(32, 3, 32)},
    ),
    "out of a function": (
        f"""(float[N,64] x) => (float[N,32] y) {{ w = local.f () y = MatMul (x, w) }}
        {FUNCTION} f () => (r) {{ r = Constant <value=float[1] {{0}}> () }}""",
        {"r": weight(64, 32)},
    ),
    "through a function": (
        f"""(float[N,64] x, float[32,64] w) => (float[N,32] y) {{ v = local.f (w) y = MatMul (x, v) }}
        {FUNCTION} f (a) => (r) {{ r = Transpose (a) }}""",
        {"w": weight(32, 64)},
    ),
    "through two functions": (
        f"""(float[N,64] x, float[32,64] w, float[64,64] u) => (float[N,32] y)
        {{ t = local.f (u) v = local.f (w) h = local.g (x, t) y = local.g (h, v) }}
        {FUNCTION} f (a) => (r) {{ r = Transpose (a) }} {FUNCTION} g (a, k) => (r) {{ r = MatMul (a, k) }}""",
        {"w": weight(32, 64), "u": weight(64, 64)},
    ),
    "a table of GatherND": (
        "(int64[N,1] i, float[100,64] w) => (float[N,64] y) { y = GatherND (w, i) }", {"w": weight(100, 64)}
    ),
    "a table of GatherElements": (
        "(int64[100,64] i, float[100,64] w) => (float[100,64] y) { y = GatherElements (w, i) }",
        {"w": weight(100, 64)},
    ),
}  # fmt: skip


def model_of(case: str) -> ModelProto:
    graph, tensors = FLOW[case]
    return filled(graph, tensors)


def filled(graph: str, tensors: dict[str, Array]) -> ModelProto:
    model = text(f"g {graph}", imports=LOCAL)
    for name, value in tensors.items():
        put(model, name, value)
    return model


@TARGETS
@pytest.mark.parametrize("granularity", ["channel", "block:32"])
@pytest.mark.parametrize("case", FLOW)
def test_a_weight_is_followed_to_where_it_is_read(case: str, granularity: str, target: str, tmp_path: Path) -> None:
    model = model_of(case)
    result = quantize(model, target=target, granularity=granularity)
    assert set(result.plan.sites) == set(FLOW[case][1])
    assert not float_tensors(result.model)
    assert result.verification is not None and result.verification.reference_sqnr_db is not None
    if target == "ort":
        left, before = (sorted(set(optimized(m, tmp_path)) - {"Constant"}) for m in (result.model, model))
        assert left == before


def test_a_weight_is_read_by_those_alone_that_it_reaches() -> None:
    for case, uses in (("through two functions", {"w": 1, "u": 1}), ("carried by Loop", {"w": 2})):
        sites = find(model_of(case), 256).sites
        assert {name: len(located.site.uses) for name, located in sites.items()} == uses


def test_inputs_are_known_behind_a_function_and_not_behind_a_branch() -> None:
    known = {case: {feature_of(s) is not None for s in find(model_of(case), 256).sites.values()} for case in FLOW}
    assert known["through a function"] == known["out of a function"] == {True}
    assert known["out of both branches"] == known["through a branch"] == known["carried by Loop"] == {False}


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("case", ["out of a branch", "out of a function"])
def test_a_large_weight_that_is_read_elsewhere_is_folded(case: str, size: int) -> None:
    """The node that reads it is not in the graph that stores it, so that it cannot become a fused one."""
    graph = {
        "out of a branch": f"""(bool c, float[N,{size}] x) => (float[N,{size}] y) {{ w = If (c) <
            then_branch = t () => (float[{size},{size}] p) {{ p = Constant <value=float[1] {{0}}> () }},
            else_branch = e () => (float[{size},{size}] q) {{ q = Constant <value=float[1] {{0}}> () }}>
            y = Gemm (x, w) }}""",
        "out of a function": f"""(float[N,{size}] x) => (float[N,{size}] y) {{ w = local.f () y = Gemm (x, w) }}
            {FUNCTION} f () => (r) {{ r = Constant <value=float[1] {{0}}> () }}""",
    }[case]
    names = ("p", "q") if "branch" in case else ("r",)
    model = filled(graph, {name: weight(size, size) for name in names})
    result = quantize(model, fused="always")
    assert set(result.rewritten.forms.values()) == {"folded"}


def test_each_step_of_scan_has_its_channels() -> None:
    for case, scales in (("one of Scan's steps", [3, 1, 32]), ("one of Scan's steps on axis 1", [1, 3, 32])):
        result = mq.quantize(model_of(case))
        assert [list(t.dims) for t in result.model.graph.initializer if t.name == "w.scale"] == [scales]


CHANGED = {
    "Loop": f"""(float[6,32] x, float[32,32] w, float[32,32] v) => (float[6,32] y) {{ {LOOP}
        h, u = Loop (n, c, x, w) <body = b (int64 i, bool k, float[6,32] a, float[32,32] d)
            => (bool l, float[6,32] o, float[32,32] e) {{ l = Identity (k) o = MatMul (a, d) e = Neg (d) }}>
        y = MatMul (h, v) }}""",
    "Scan": """(float[4,32] x, float[32,32] w, float[32,32] v) => (float[4,32] z) {
        h, y = Scan <num_scan_inputs=1, body = b (float[32,32] s, float[32] r) => (float[32,32] t, float[32] o)
            { t = Neg (s) o = MatMul (r, s) }> (w, x) z = MatMul (y, v) }""",
}


def test_what_a_loop_gathers_stays_float_and_is_listed() -> None:
    model = text(f"""g (float[6,32] x, float[32,32] v) => (float[6,32] y, float[3,32,32] z, float[3,6,32] u) {{ {LOOP}
        h, z, t = Loop (n, c, x) <body = b (int64 i, bool k, float[6,32] a)
            => (bool l, float[6,32] o, float[32,32] w, float[6,32] p)
            {{ l = Identity (k) o = Neg (a) w = Constant <value=float[1] {{0}}> () p = Abs (a) }}>
        y = MatMul (h, v) u = MatMul (t, v) }}""", v=weight(32, 32), w=weight(32, 32))  # fmt: skip
    result = quantize(model)
    assert list(result.plan.sites) == ["v"]
    assert dict(result.plan.skipped) == {"w": "an output of its graph"}


@pytest.mark.parametrize("op", CHANGED)
def test_the_start_of_what_a_loop_changes_stays_float_and_is_listed(op: str) -> None:
    model = text(f"g {CHANGED[op]}", w=weight(32, 32), v=weight(32, 32))
    result = quantize(model)
    assert list(result.plan.sites) == ["v"]
    assert dict(result.plan.skipped) == {"w": f"the start of a value that {op} changes"}


def overloaded(body: str = "h = MatMul (a, w) r = Relu (h)") -> ModelProto:
    """Two functions of one name: the first with the weight `w`, the second with another `w` and `body`."""
    model = text(f"""g (float[N,64] x) => (float[N,64] y) {{ h = local.f (x) y = local.f (h) }}
        {FUNCTION} f (a) => (r) {{ w = Constant <value=float[1] {{0}}> () r = MatMul (a, w) }}
        {FUNCTION} other (a) => (r) {{ w = Constant <value=float[1] {{0}}> () {body} }}""",
                 imports=LOCAL, ir=10, w=weight(64, 64))  # fmt: skip
    second: FunctionProto = model.functions[1]
    second.name, second.overload, model.graph.node[1].overload = "f", "two", "two"
    return model


@TARGETS
@pytest.mark.parametrize("bits", [5, 8])
def test_the_weights_of_each_overload_are_found(bits: int, target: str) -> None:
    model = overloaded()
    onnx.checker.check_model(model)
    result = mq.quantize(model, bits=[bits], target=target)
    assert set(result.plan.sites) == {"local::f::w", "local::f:two::w"}
    assert not float_tensors(result.model)
    onnx.checker.check_model(result.model)
    assert agreement(model, result.model) > 5 * bits - 8


def test_a_weight_passed_to_one_overload_is_judged_by_that_one() -> None:
    model = text(f"""g (float[N,64] x, float[64,64] w, float[512] b, float[512,8] v) => (float[N,8] y)
        {{ h = local.f (x, w) k = local.f (h, b) y = MatMul (k, v) }}
        {FUNCTION} f (a, m) => (r) {{ r = MatMul (a, m) }}
        {FUNCTION} other (a, m) => (r) {{ s = Shape (a) t = ReduceMax <keepdims=1, axes=[1]> (a) r = Add (t, m) }}""",
                 imports=LOCAL, ir=10, w=weight(64, 64), b=weight(512), v=weight(512, 8))  # fmt: skip
    model.functions[1].name, model.functions[1].overload, model.graph.node[1].overload = "f", "two", "two"
    result = quantize(model)
    assert set(result.plan.sites) == {"w", "v"}
    assert dict(result.plan.skipped) == {"b": "input 1 of Add is not a weight"}


@TARGETS
def test_the_weights_of_experts_are_quantized(target: str) -> None:
    experts = [helper.make_node("MoE", ["x", "r", "up", "", "down", ""], ["y"], domain="com.microsoft", k=2,
                                activation_type="gelu")]  # fmt: skip
    model = text("g (float[6,32] x, float[6,4] r, float[4,64,32] up, float[4,32,64] down) => (float[6,32] y) "
                 "{ y = Identity (x) }", imports=', "com.microsoft" : 1',
                 up=weight(4, 64, 32), down=weight(4, 32, 64))  # fmt: skip
    model.graph.ClearField("node")
    model.graph.node.extend(experts)
    result = quantize(model, target=target)
    assert set(result.plan.sites) == {"up", "down"}
    assert not float_tensors(result.model)


@pytest.mark.parametrize(("op", "indices"), [("GatherND", "N,1"), ("GatherElements", "900,4")])
def test_a_table_of_coordinates_stays_float(op: str, indices: str) -> None:
    graph = f"""(int64[{indices}] i, float[900,4] w, float[64,8] v, float[8,64] x) => (float[A,4] y, float[8,8] z)
        {{ y = {op} (w, i) z = MatMul (x, v) }}"""
    result = quantize(filled(graph, {"w": weight(900, 4), "v": weight(64, 8)}))
    assert list(result.plan.sites) == ["v"]
    assert dict(result.plan.skipped) == {"w": f"input 0 of {op} is not a weight"}


def test_floats_in_attributes_are_listed_with_their_node() -> None:
    model = text("g (float[N,64] x, float[64,64] w) => (float[N,8] y) { h = MatMul (x, w) y = Identity (h) }",
                 imports=', "ai.onnx.ml" : 1', w=weight(64, 64))  # fmt: skip
    linear = helper.make_node("LinearRegressor", ["h"], ["y"], domain="ai.onnx.ml", name="head", targets=8,
                              coefficients=weight(8, 64).reshape(-1).tolist())  # fmt: skip
    model.graph.node[1].CopyFrom(linear)
    result = quantize(model)
    assert dict(result.plan.skipped) == {"head.coefficients": "attribute 'coefficients' of LinearRegressor"}


def test_the_names_of_results_stay_where_a_branch_returns_a_weight() -> None:
    model = model_of("out of both branches")
    result = mq.quantize(model)
    before, after = (
        [[v.name for v in a.g.output] for n in nodes(m) if n.op_type == "If" for a in n.attribute]
        for m in (model, result.model)
    )
    assert before == after
    assert [node.op_type for node in readers(result.model, "w")] == ["MatMul"]
    assert np.prod(result.sites["p"].site.shape) == 64 * 32
