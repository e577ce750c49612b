"""What a calibration sees is what the operator sees: rows times the weight are the operator's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from cases import seconds
from decoders import HEADS_OF, Head, decoder
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.model.layer_inputs import feature_of, reading_order
from mixquant_onnx.model.weights import find, weight_values
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.rows import to_rows
from mixquant_onnx.runtime.session import Session

FLOAT = TensorProto.FLOAT
RANDOM = np.random.default_rng(3)


def model_of(node: onnx.NodeProto, shape: list[int | str], weights: dict[str, np.ndarray]) -> ModelProto:
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv(weight: tuple[int, ...], spatial: tuple[int, ...], **attributes: Any) -> tuple[ModelProto, list[int]]:
    group = attributes.get("group", 1)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    shape = [2, weight[1] * group, *spatial]
    return model_of(node, list(shape), {"w": RANDOM.standard_normal(weight)}), shape


def seen_and_weight(model: ModelProto, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All rows of inputs that meet the weight "w", and the weight, by groups."""
    located = find(model, 1).sites["w"]
    feature = feature_of(located)
    assert feature is not None
    rows = feature.rows(x, 10**9, 0)
    assert rows is not None
    weight = to_rows(weight_values(located), located.site.layout, Granularity(per="channel"))
    return rows, weight.reshape(feature.groups, -1, feature.width)


CONVOLUTIONS = {
    "plain": conv((4, 3, 3, 3), (9, 8)),
    "pads": conv((4, 3, 3, 3), (9, 8), pads=[1, 0, 2, 1]),
    "strides": conv((4, 3, 3, 2), (9, 8), strides=[2, 3], pads=[1, 1, 1, 1]),
    "dilations": conv((4, 3, 3, 3), (11, 9), dilations=[2, 3]),
    "groups": conv((6, 2, 3, 3), (7, 7), group=3),
    "depthwise": conv((8, 1, 5, 5), (9, 9), group=8, strides=[2, 2]),
    "same upper": conv((4, 3, 4, 4), (9, 8), auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": conv((4, 3, 4, 4), (9, 8), auto_pad="SAME_LOWER"),
    "valid": conv((4, 3, 2, 2), (9, 8), auto_pad="VALID"),
    "1-D": conv((5, 4, 3), (17,), pads=[1, 1], dilations=[2]),
    "3-D": conv((4, 2, 2, 3, 3), (5, 6, 7), strides=[1, 2, 1]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_times_the_weight_are_the_convolution(name: str) -> None:
    model, shape = CONVOLUTIONS[name]
    x = RANDOM.standard_normal(shape).astype(np.float32)
    wanted = np.moveaxis(Session(model).run({"x": x})[0], 1, -1)
    rows, weight = seen_and_weight(model, x)
    got = rows @ weight.transpose(0, 2, 1)
    np.testing.assert_allclose(got.transpose(1, 0, 2).reshape(wanted.shape), wanted, rtol=2e-4, atol=2e-4)


PRODUCTS = {
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), [2, 5, 7], (7, 4)),
    "MatMul, weight first": (helper.make_node("MatMul", ["w", "x"], ["y"]), [2, 7, 5], (4, 7)),
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"]), [5, 7], (7, 4)),
    "Gemm transB": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), [5, 7], (4, 7)),
    "Gemm transA": (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), [7, 5], (7, 4)),
    "Gemm, weight first": (helper.make_node("Gemm", ["w", "x"], ["y"]), [7, 5], (4, 7)),
    "Gemm, weight first, both transposed": (
        helper.make_node("Gemm", ["w", "x"], ["y"], transA=1, transB=1), [5, 7], (7, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_rows_times_the_weight_are_the_product(name: str) -> None:
    node, shape, size = PRODUCTS[name]
    model = model_of(node, list(shape), {"w": RANDOM.standard_normal(size)})
    x = RANDOM.standard_normal(shape).astype(np.float32)
    wanted = Session(model).run({"x": x})[0]
    rows, weight = seen_and_weight(model, x)
    got = rows[0] @ weight[0].T
    if node.input[0] == "w":
        wanted = np.moveaxis(wanted, -2, -1)
    np.testing.assert_allclose(got, wanted.reshape(got.shape), rtol=1e-4, atol=1e-4)


def branched() -> ModelProto:
    """If two levels deep, a MatMul in each branch."""

    def branch(name: str, weight: str, body: list[onnx.NodeProto]) -> onnx.GraphProto:
        stored = numpy_helper.from_array(RANDOM.standard_normal((8, 8)).astype(np.float32), weight)
        return helper.make_graph(body, name, [], [helper.make_tensor_value_info(f"{name}.out", FLOAT, None)], [stored])

    def product(weight: str, output: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Relu", ["x"], [f"{output}.in"]),
            helper.make_node("MatMul", [f"{output}.in", weight], [output]),
        ]

    inner = helper.make_node(
        "If", ["second"], ["outer.out"], name="inner",
        then_branch=branch("a", "wa", product("wa", "a.out")), else_branch=branch("b", "wb", product("wb", "b.out")),
    )  # fmt: skip
    outer = helper.make_node(
        "If", ["first"], ["y"], name="outer",
        then_branch=branch("outer", "unused", [inner]), else_branch=branch("c", "wc", product("wc", "c.out")),
    )  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, [4, 8]),
        helper.make_tensor_value_info("first", TensorProto.BOOL, []),
        helper.make_tensor_value_info("second", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph([outer], "g", inputs, [helper.make_tensor_value_info("y", FLOAT, [4, 8])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_branches_that_are_taken_are_seen_and_others_are_not() -> None:
    model = branched()
    x = RANDOM.standard_normal((4, 8)).astype(np.float32)
    sites = {n: s for n, s in find(model, 1).sites.items() if n.startswith("w")}
    feed = {"x": x, "first": np.array(True), "second": np.array(False)}
    found = seconds(Calibration(model, sites, Data(feeds=(feed,), labels=None)), list(sites))
    assert set(found) == {"wb"}
    positive = np.maximum(x, 0)
    np.testing.assert_allclose(found["wb"].matrix[0], positive.T @ positive / 4, rtol=1e-4, atol=1e-5)


def test_moments_are_means_over_all_feeds_and_agree_with_second_moments() -> None:
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), ["n", 7], {"w": RANDOM.standard_normal((7, 4))})
    arrays = [RANDOM.standard_normal((5, 7)).astype(np.float32) + 1 for _ in range(3)]
    data = Data(feeds=tuple({"x": a} for a in arrays), labels=None)
    calibration = Calibration(model, find(model, 1).sites, data)
    plain, second = calibration.moments(["w"])["w"], seconds(calibration, ["w"])["w"]
    both = np.concatenate(arrays)
    np.testing.assert_allclose(plain.mean[0], both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(plain.variance[0], both.var(0), rtol=1e-4)
    np.testing.assert_allclose(second.moments.variance, plain.variance, rtol=1e-4)
    assert second.samples == 15


def test_of_generated_inputs_only_the_sign_and_the_common_size_are_believed() -> None:
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), ["n", 7], {"w": RANDOM.standard_normal((7, 4))})
    x = np.abs(RANDOM.standard_normal((50, 7))).astype(np.float32) + 3
    x[:, 4:] -= 3 + 2 * (RANDOM.random((50, 3)) > 0.5).astype(np.float32)
    moments = {}
    for synthetic in (False, True):
        data = Data(feeds=({"x": x},), labels=None, origin="noise" if synthetic else "user")
        moments[synthetic] = Calibration(model, find(model, 1).sites, data).moments(["w"])["w"]
    real, generated = moments[False], moments[True]
    np.testing.assert_allclose(generated.mean[0], [real.mean[0, :4].mean()] * 4 + list(real.mean[0, 4:]), rtol=1e-5)
    assert len(set(real.mean[0, :4])) == 4
    assert np.all(generated.variance >= generated.mean**2)
    assert np.all(real.variance[0, :4] < real.mean[0, :4] ** 2)


def test_the_target_repeats_the_float_output_on_changed_inputs() -> None:
    """Inputs that arrive halved ask for weights twice as large, as far as the samples are believed."""
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), ["n", 7], {"w": RANDOM.standard_normal((7, 4))})
    first = helper.make_node("Mul", ["x", "half"], ["h"])
    for half, name in ((1.0, "float"), (0.5, "current")):
        made = ModelProto()
        made.CopyFrom(model)
        made.graph.node[0].input[0] = "h"
        made.graph.node.insert(0, first)
        made.graph.initializer.append(numpy_helper.from_array(np.full(7, half, np.float32), "half"))
        if name == "float":
            original = made
        else:
            current = made
    x = RANDOM.standard_normal((4000, 7)).astype(np.float32)
    data = Data(feeds=({"x": x},), labels=None)
    sites = {"w": find(original, 1).sites["w"]}
    calibration = Calibration(original, sites, data)
    found = calibration.collect(["w"], calibration.float_stream(), calibration.stream(current))["w"]
    weight = weight_values(sites["w"]).T[None]
    away = np.linalg.norm(found.target(weight) - 2 * weight) / np.linalg.norm(2 * weight)
    assert 0.01 < away < 0.05


def test_few_samples_are_believed_less() -> None:
    model = model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), ["n", 64], {"w": RANDOM.standard_normal((64, 4))})
    found = []
    for count in (8, 64, 4096):
        data = Data(feeds=({"x": RANDOM.standard_normal((count, 64)).astype(np.float32)},), labels=None)
        found.append(seconds(Calibration(model, find(model, 1).sites, data), ["w"])["w"])
    assert [round(d.shrinkage, 3) for d in found] == [0.889, 0.5, 0.03]
    assert np.linalg.eigvalsh(found[0].shrunk()[0].astype(np.float64)).min() > 0


def test_watching_changes_nothing_in_the_model() -> None:
    model = branched()
    before = model.SerializeToString()
    sites = find(model, 1).sites
    feed = {"x": np.ones((4, 8), np.float32), "first": np.array(True), "second": np.array(True)}
    assert seconds(Calibration(model, sites, Data(feeds=(feed,), labels=None)), list(sites))
    assert model.SerializeToString() == before


def test_weights_are_taken_in_the_order_of_the_graph() -> None:
    nodes = [helper.make_node("MatMul", ["x", "late"], ["h"]), helper.make_node("MatMul", ["h", "early"], ["y"])]
    weights = {"early": np.eye(8), "late": np.eye(8)}
    model = model_of(nodes[0], [2, 8], weights)
    model.graph.node.append(nodes[1])
    assert reading_order(model, find(model, 1).sites) == (["late", "early"], frozenset())


def _worst(result: mq.RunResult) -> float:
    assert result.verification is not None
    return min(output.sqnr_db or 0 for output in result.verification.quality[0].outputs)


@pytest.mark.parametrize("head", HEADS_OF)
def test_a_table_that_is_the_head_too_keeps_no_layer_from_its_samples(
    head: Head, samples_met: list[tuple[str, int]]
) -> None:
    """The table is read first, and meets its inputs last; all other weights make up for its errors."""
    result = mq.quantize(decoder(head=head), bits=4)
    met = dict(samples_met)
    assert samples_met[0][0] == "embed" and len(met) == (16 if head == "apart" else 15)
    assert _worst(result) > _worst(mq.quantize(decoder(head=head), bits=4, method="mse")) + 4
    assert {name for name, samples in met.items() if samples < 1000} == ({"embed"} if head == "apart" else set())


def test_weights_with_the_same_samples_share_their_statistics() -> None:
    """Of two weights of one layer's input, the same; of convolutions that read it otherwise, each its own."""
    shape, kernels = [3, 4, 9, 9], {name: RANDOM.standard_normal((4, 4, 3, 3)) for name in "abc"}
    model = model_of(helper.make_node("Conv", ["x", "a"], ["y"], strides=[1, 1]), list(shape), kernels)
    model.graph.node.append(helper.make_node("Conv", ["x", "b"], ["z"], strides=[1, 1]))
    model.graph.node.append(helper.make_node("Conv", ["x", "c"], ["v"], strides=[2, 2]))
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in "zv")
    data = Data(feeds=({"x": RANDOM.standard_normal(shape).astype(np.float32)},), labels=None)
    found = seconds(Calibration(model, find(model, 1).sites, data), ["a", "b", "c"])
    assert found["a"] is found["b"]
    assert (found["a"].samples, found["c"].samples) == (3 * 7 * 7, 3 * 4 * 4)
    alone = seconds(Calibration(model, find(model, 1).sites, data), ["c"])
    np.testing.assert_array_equal(found["c"].matrix, alone["c"].matrix)
