"""Zero points in the bits of their codes: what they take in the file, and that nothing else changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import PROPERTIES, Array, classifier, feed_for, optimized, run, text, weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.export.encodings import packed_zero_points as zero_points
from mixquant_onnx.export.encodings.bit_planes import packed_bytes
from mixquant_onnx.numerics.granularity import ALL_BITS

NARROW = [bits for bits in ALL_BITS if bits < 8]
GRANULARITIES = ["tensor", "channel", "block:16", "block:32", "block:100"]

zeros_of = st.sampled_from(NARROW).flatmap(
    lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70))
)


@PROPERTIES
@given(zeros_of)
def test_packed_zero_points_come_back_in_whole_numbers_and_a_fraction(case: tuple[int, list[int]]) -> None:
    bits, values = case
    stored = zero_points.pack_stream(np.array(values, np.uint8), bits)
    assert stored.nbytes == packed_bytes(len(values), bits) < bits * (len(values) + 8) / 8
    product = stored.astype(np.float32) @ zero_points.shares(bits)
    assert product.dtype == np.float32
    assert np.floor(product % 2**bits).reshape(-1)[: len(values)].tolist() == values


def test_a_stream_begins_in_the_low_bits_of_its_first_byte() -> None:
    stored = zero_points.pack_stream(np.array([0b101, 0b011, 0b110, 0, 0, 0, 0, 0b100, 0b111], np.uint8), 3)
    assert stored.tolist() == [[0b10_011_101, 0b1, 0b100_00000], [0b111, 0, 0]]


@pytest.mark.parametrize("bits", NARROW)
def test_bytes_are_kept_until_packing_pays(bits: int) -> None:
    least = next(count for count in range(8, 1 << 16, 8) if zero_points.packs(count, bits))
    assert least * (8 - bits) / 8 >= zero_points.PAYS_FROM > (least - 8) * (8 - bits) / 8
    assert zero_points.stored_bytes(least, bits) == least * bits // 8
    assert zero_points.stored_bytes(least - 8, bits) == least - 8
    assert not zero_points.packs(1 << 30, 8)


def unpacked(q: Array, bits: int, opset: int) -> Array:
    """What ONNX Runtime makes of zero points stored in `bits` each."""
    function = zero_points.build(q.size, bits, opset)
    known: dict[str, Any] = dict(zero_points.attributes(q.size, q.shape, opset))
    graph = helper.make_graph(
        [helper.make_node(function.name, zero_points.inputs(opset), ["y"], domain="mixquant",
                          **known)],
        "g", [], [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(zero_points.pack_stream(q, bits), "packed"),
         numpy_helper.from_array(np.ones(q.shape, np.float16), "like")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mixquant", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    return np.asarray(run(model, {})[0])


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 18, 21])
def test_every_zero_point_next_to_every_other_is_unpacked(opset: int, bits: int) -> None:
    top = (1 << bits) - 1
    every = np.array([*itertools.product((0, 1, top // 2, top - 1, top), repeat=3), *[(0, k, top) for k in range(top)]])
    for shape in ((-1,), (every.shape[0], 3), (3, 1, -1, 1)):
        values = every.astype(np.uint8).reshape(shape)
        np.testing.assert_array_equal(unpacked(values, bits, opset), values)
    exact = every.astype(np.uint8).reshape(-1)[: every.size // 8 * 8].reshape(2, -1, 4)
    np.testing.assert_array_equal(unpacked(exact, bits, opset), exact)


LAYERS = {
    "depthwise": ("(float[1,1536,4,4] x, float[1536,1,3,3] w) => (float[1,1536,2,2] y) { y = Conv <group=1536> (x, w)}",
                  (1536, 1, 3, 3)),
    "conv": ("(float[1,300,4,4] x, float[350,300,1,1] w) => (float[1,350,4,4] y) { y = Conv (x, w) }",
             (350, 300, 1, 1)),
    "table": ("(int64[3] x, float[3700,130] w) => (float[3,130] y) { y = Gather (w, x) }", (3700, 130)),
    "product": ("(float[5,768] x, float[768,1024] w) => (float[5,1024] y) { y = MatMul (x, w) }", (768, 1024)),
}  # fmt: skip


def layer(name: str) -> ModelProto:
    graph, shape = LAYERS[name]
    return text(f"g {graph}", w=8 * weight(*shape))  # their scales fit into float16 at 8 bits too


def both(model: ModelProto, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[mq.RunResult, mq.RunResult]:
    """Results with zero points as they are stored, and with a byte for each."""
    chosen: dict[str, Any] = {"method": "minmax", "data_free": True, "verify": False, **options}
    stored = mq.quantize(model, **chosen)
    with monkeypatch.context() as patch:
        patch.setattr(zero_points, "PAYS_FROM", 1 << 40)
        return stored, mq.quantize(model, **chosen)


def zero_bytes(model: ModelProto) -> dict[str, int]:
    return {t.name: len(t.raw_data) for t in model.graph.initializer if t.name.endswith(".zero_point")}


def unpackers(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type.startswith("ZeroPoint")]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", LAYERS)
def test_the_price_is_what_is_stored_and_the_outputs_stay(
    name: str, granularity: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = layer(name)
    stored, plain = both(model, monkeypatch, bits=[bits], granularity=granularity)
    [cell], [(site, nbytes)] = stored.table["w"].candidates, stored.rewritten.nbytes.items()
    assert (site, cell.nbytes) == ("w", nbytes)
    raw = sum(len(t.raw_data) for t in stored.model.graph.initializer if t.data_type != TensorProto.INT64)
    assert raw == nbytes
    count = zero_bytes(plain.model)["w.zero_point"]
    assert zero_bytes(stored.model)["w.zero_point"] == zero_points.stored_bytes(count, bits)
    assert bool(unpackers(stored.model)) == zero_points.packs(count, bits)
    assert not unpackers(plain.model)
    assert plain.rewritten.nbytes["w"] - nbytes == count - zero_points.stored_bytes(count, bits)
    assert stored.nbytes_after <= plain.nbytes_after + 500  # a function for one weight, that many share as a rule
    feed = feed_for(model)
    np.testing.assert_array_equal(run(stored.model, feed)[0], run(plain.model, feed)[0])


@pytest.mark.parametrize(("bits", "share"), [(2, 0.065), (3, 0.039), (4, 0.024), (5, 0.015), (6, 0.008)])
@pytest.mark.parametrize("name", ["table", "product"])
def test_blocks_of_32_take_that_much_less(name: str, bits: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, plain = both(layer(name), monkeypatch, bits=[bits], granularity="block:32")
    assert 1 - stored.nbytes_after / plain.nbytes_after >= share


def test_a_depthwise_convolution_takes_a_tenth_less(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, plain = both(layer("depthwise"), monkeypatch, bits=[3])
    saved = plain.rewritten.nbytes["w"] - stored.rewritten.nbytes["w"]
    assert saved == 1536 * 5 // 8 > 0.09 * plain.rewritten.nbytes["w"]
    assert 0 < plain.nbytes_after - stored.nbytes_after < saved


@pytest.mark.parametrize(
    "options", [{"fused": "always"}, {}, {"exact": True}, {"min_ort": (1, 20)}, {"target": "qdq"}], ids=str
)
@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("granularity", ["block:32", "block:64"])
@pytest.mark.parametrize("name", LAYERS)
def test_onnx_runtime_runs_the_same_operators(
    name: str, granularity: str, bits: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, plain = both(layer(name), monkeypatch, bits=[bits], granularity=granularity, **options)
    found = optimized(stored.model, tmp_path)
    assert found == optimized(plain.model, tmp_path)
    if name == "product":
        assert found == (["MatMulNBits"] if "fused" in options or "target" in options else ["MatMul"])
        held = "target" in options or ("fused" in options and bits == 4)
        assert unpackers(stored.model) == ([] if held else [f"ZeroPoint{bits}"])


def test_symmetric_grids_and_few_zero_points_are_not_packed() -> None:
    assert not unpackers(mq.quantize(layer("product"), bits=[3], granularity="block:32", symmetric=True).model)
    assert not unpackers(mq.quantize(classifier(), bits=[3], granularity="block:32").model)
    proved = mq.quantize(layer("product"), bits=[3], granularity="block:32")
    assert unpackers(proved.model) == ["ZeroPoint3"] and proved.verification is not None


def test_one_function_serves_all_weights_of_a_width(output: Path) -> None:
    model = text(
        """g (float[5,768] x, float[768,1024] v, float[1024,768] w) => (float[5,768] y)
        { h = MatMul (x, v) y = MatMul (h, w) }""", v=weight(768, 1024), w=weight(1024, 768),
    )  # fmt: skip
    mq.quantize(model, output, bits=[5], granularity="block:32")
    written = onnx.load(output)
    assert unpackers(written) == ["ZeroPoint5", "ZeroPoint5"]
    assert [f.name for f in written.functions if f.name.startswith("ZeroPoint")] == ["ZeroPoint5"]
