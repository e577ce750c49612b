"""Zero points in the bits of their codes: what they take in the file, and that nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import PROPERTIES, Array, decibels, optimized, run, text, weight
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.encodings import zero_points
from mixquant_onnx.encodings.planes import packed_bytes
from mixquant_onnx.quantizer import dequantized
from mixquant_onnx.types import ALL_BITS, Quantized

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
    least = next(count for count in itertools.count(8, 8) if zero_points.packs(count, bits))
    assert least * (8 - bits) / 8 >= zero_points.PAYS_FROM > (least - 8) * (8 - bits) / 8
    assert zero_points.stored_bytes(least, bits) == least * bits // 8
    assert zero_points.stored_bytes(least - 8, bits) == least - 8
    assert not zero_points.packs(1 << 30, 8)


def unpacked(q: Array, bits: int, opset: int) -> Array:
    """What ONNX Runtime makes of zero points stored in `bits` each."""
    function = zero_points.build(q.size, bits, opset)
    graph = helper.make_graph(
        [helper.make_node(function.name, zero_points.inputs(opset), ["y"], domain="mixquant",
                          **zero_points.attributes(q.size, q.shape, opset))],
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


def network() -> ModelProto:
    """A depthwise convolution, a plain one, a table, and products large enough for the fused kernel."""
    return text(
        """g (float[1,640,8,8] x, int64[3] i, float[640,1,3,3] depthwise, float[96,640,1,1] conv,
            float[500,300] table, float[768,512] product)
        => (float[1,96,8,8] a, float[3,300] b, float[3,512] c)
        { h = Conv <group=640, pads=[1,1,1,1]> (x, depthwise) a = Conv (h, conv) b = Gather (table, i)
          wide = Gather (product, i) l = Transpose <perm=[1,0]> (wide) r = Transpose <perm=[1,0]> (l)
          [last] t = Concat <axis=1> (b, b, b) s = Slice (t, from, to, along) c = MatMul (s, other) }""",
    )


def layers() -> Iterator[tuple[str, ModelProto]]:
    yield "depthwise", text(
        "g (float[1,1536,8,8] x, float[1536,1,3,3] w) => (float[1,1536,6,6] y) { y = Conv <group=1536> (x, w) }",
        w=weight(1536, 1, 3, 3),
    )
    yield "conv", text(
        "g (float[1,300,4,4] x, float[250,300,1,1] w) => (float[1,250,4,4] y) { y = Conv (x, w) }",
        w=weight(250, 300, 1, 1),
    )
    yield "table", text("g (int64[3] x, float[700,130] w) => (float[3,130] y) { y = Gather (w, x) }", w=weight(700, 130))
    yield "product", text(
        "g (float[5,768] x, float[768,520] w) => (float[5,520] y) { y = MatMul (x, w) }", w=weight(768, 520)
    )
