"""Each part of the encodings on a few small weights, against plain NumPy and written-out nodes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from cases import LAYOUTS, Array, quantized, run, site
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings import packed_zero_points as zero_points
from mixquant_onnx.export.encodings import sizes
from mixquant_onnx.export.encodings.bit_planes import (
    byte_shape,
    field_bytes,
    fields_shape,
    outline_of_planes,
    pack,
    pack_fields,
    packed_bytes,
    shifts,
    table,
    unpack,
)
from mixquant_onnx.export.encodings.builder import ONNX_TYPE, Builder, Encoded
from mixquant_onnx.export.encodings.dequantize_linear import DequantizeLinear, encode_native, least_opset, opset_for
from mixquant_onnx.export.encodings.folded import Folded, encode_folded, offer
from mixquant_onnx.export.encodings.matmul_nbits import Kernel, MatMulNBits, encode_matmul
from mixquant_onnx.export.encodings.outline import nbytes_of, outline
from mixquant_onnx.export.encodings.storage import EVERY_RELEASE, NEVER, Release, Storage, at_opset
from mixquant_onnx.export.weight_in_model import WeightInModel
from mixquant_onnx.model.tensor_data import raw_nbytes
from mixquant_onnx.numerics.granularity import ALL_BITS, Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid, params_shape
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme

TENSOR, CHANNEL = Granularity(per="tensor"), Granularity(per="channel")
B4, B5 = Granularity(per="block", block=4), Granularity(per="block", block=5)
NARROW = [bits for bits in ALL_BITS if bits < 8]
OPSETS = [7, 9, 10, 11, 12, 13, 14, 21]
MATMUL, GEMM = WeightAxes(r=1, q=1), WeightAxes(p=1, r=1)
COUNTS = np.arange(1, 9, dtype=np.uint8)


@pytest.fixture(autouse=True)
def built_anew() -> None:
    """Functions are built in the test that asks for them, so that each test stands for all it reaches."""
    functions.build.cache_clear()
    zero_points._build.cache_clear()


@pytest.fixture
def all_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_points, "packs", lambda count, bits: bits < 8 and count > 1)


def marked(wish: str) -> str:
    """A fresh name that shows it was asked for."""
    return wish + "'"


def weight(
    shape: tuple[int, ...] = (13, 5), layout: WeightAxes = MATMUL, bits: int = 3, grid: Granularity = CHANNEL,
    symmetric: bool = False, dtype: str = "float32", scale: type = np.float16,
) -> QuantizedTensor:  # fmt: skip
    return quantized(shape, layout, bits, grid, symmetric, dtype, scale)


def model_of(encoded: Encoded, kind: int, opset: int, rank: int, output: str = "w") -> ModelProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mixquant", 1)]
    made = helper.make_tensor_value_info(output, kind, [None] * rank)
    graph = helper.make_graph(encoded.nodes, "g", [], [made], encoded.tensors)
    newest = max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    functions_once = {f.name: f for f in encoded.functions}.values()
    return helper.make_model(graph, functions=list(functions_once), opset_imports=imports, ir_version=newest)


def check(q: QuantizedTensor, encoded: Encoded | None, opset: int, output: str = "w", transpose: bool = False) -> None:
    """The weight as ONNX Runtime computes it, bit for bit, and the bytes that were counted."""
    assert encoded is not None
    model = model_of(encoded, ONNX_TYPE[q.dtype], opset, q.codes.ndim, output)
    onnx.checker.check_model(model)
    [value] = run(model, {})
    wanted = q.dequantize(np.dtype(q.dtype))
    wanted = wanted.T if transpose else wanted
    assert value.dtype == wanted.dtype and value.shape == wanted.shape
    assert np.array_equal(value, wanted)
    assert encoded.nbytes == sum(len(t.raw_data) for t in encoded.tensors if t.data_type != TensorProto.INT64)


def lines(nodes: Any) -> list[str]:
    """Nodes as text: name, outputs, operator, inputs, attributes."""
    return [
        f"{n.name}: {','.join(n.output)} = {n.domain and n.domain + '.'}{n.op_type}({','.join(n.input)})"
        + "".join(f" {a.name}={_value(a)}" for a in n.attribute)
        for n in nodes
    ]


def _value(attribute: AttributeProto) -> Any:
    return f"@{attribute.ref_attr_name}" if attribute.ref_attr_name else helper.get_attribute_value(attribute)


def stored(encoded: Encoded) -> dict[str, tuple[int, list[int]]]:
    """Type and shape of each stored tensor."""
    return {t.name: (t.data_type, list(t.dims)) for t in encoded.tensors}


def array(encoded: Encoded, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in encoded.tensors if t.name == name))


# --- bit planes ------------------------------------------------------------------------------------------------------


def test_planes_have_the_width_and_the_lowest_bit_of_their_part() -> None:
    assert {bits: shifts(bits) for bits in ALL_BITS} == {
        8: [(8, 0)], 7: [(4, 3), (2, 1), (1, 0)], 6: [(4, 2), (2, 0)], 5: [(4, 1), (1, 0)], 4: [(4, 0)],
        3: [(2, 1), (1, 0)], 2: [(2, 0)],
    }  # fmt: skip


@pytest.mark.parametrize(("elements", "bits", "size"), [(9, 8, 9), (8, 3, 3), (9, 3, 6), (1, 7, 7), (0, 4, 0)])
def test_packed_codes_take_whole_groups_of_eight(elements: int, bits: int, size: int) -> None:
    assert packed_bytes(elements, bits) == size


@pytest.mark.parametrize(("elements", "width", "size"), [(9, 4, 5), (8, 4, 4), (5, 2, 2), (4, 2, 1), (9, 1, 2)])
def test_fields_take_the_bytes_they_fill(elements: int, width: int, size: int) -> None:
    assert field_bytes(elements, width) == size


def test_codes_are_packed_with_the_first_in_the_low_bits() -> None:
    codes = np.array([[0b101, 0b011, 0, 0b111], [0, 0, 0b100, 0b001]], np.uint8)
    high, low = pack(codes, 3)
    assert high.tolist() == [0b11_00_01_10, 0b00_10_00_00] and low.tolist() == [0b10001011]
    assert high.dtype == low.dtype == np.uint8
    assert pack(COUNTS.reshape(2, 4), 8)[0].tolist() == COUNTS.tolist()
    assert pack(COUNTS[:3], 4)[0].tolist() == [0x21, 0x03, 0, 0]
    assert [pack(COUNTS[:3], bits)[0].size for bits in (4, 8)] == [4, 3]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("elements", [1, 8, 19])
def test_packed_codes_are_unpacked(bits: int, elements: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, elements).astype(np.uint8)
    planes = pack(codes, bits)
    back = unpack(planes, bits, elements)
    assert back.dtype == np.uint8 and back.tolist() == codes.tolist()
    assert unpack(planes, bits, 1).tolist() == codes[:1].tolist()
    if bits < 8:
        with pytest.raises(ValueError, match="zip"):
            unpack([*planes, planes[0]], bits, elements)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_fields_share_bytes_and_a_table_takes_them_apart(width: int) -> None:
    each = 8 // width
    fields = np.random.default_rng(width).integers(0, 1 << width, 3 * each).astype(np.uint8)
    packed = pack_fields(fields, width)
    wanted = [sum(int(fields[i * each + k]) << (k * width) for k in range(each)) for i in range(3)]
    assert packed.dtype == np.uint8 and packed.tolist() == wanted
    for low in (0, 8 - width):
        found = table(width, low)
        assert found.dtype == np.uint8 and found.shape == (256, each)
        assert (found[packed].reshape(-1) == fields << low).all()


def test_planes_of_every_width_unpack_to_one_shape() -> None:
    assert [byte_shape(width) for width in (1, 2, 4)] == [(-1,), (-1, 2), (-1, 2, 2)]
    assert [fields_shape(width) for width in (1, 2, 4)] == [(2, 2, 2), (2, 2), (2,)]


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("elements", [8, 19])
def test_outlines_have_the_size_of_planes_and_no_memory(bits: int, elements: int) -> None:
    planes = outline_of_planes(elements, bits)
    assert [p.shape for p in planes] == [p.shape for p in pack(np.zeros(elements, np.uint8), bits)]
    assert all(p.dtype == np.uint8 and p.strides == (0,) and not p.any() for p in planes)


# --- packed zero points ----------------------------------------------------------------------------------------------


def test_zero_points_are_packed_where_that_saves_512_bytes() -> None:
    assert zero_points.packs(1024, 4) and not zero_points.packs(1023, 4) and not zero_points.packs(1 << 30, 8)
    assert zero_points.stored_bytes(1024, 4) == 512 and zero_points.stored_bytes(1023, 4) == 1023
    assert zero_points.packs(688, 2) and not zero_points.packs(680, 2)


@pytest.mark.parametrize("bits", NARROW)
@pytest.mark.parametrize("count", [8, 21])
def test_zero_points_are_a_stream_of_bits_that_a_product_unpacks(bits: int, count: int) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, count).astype(np.uint8)
    packed = zero_points.pack_stream(values.reshape(-1, 1), bits)
    assert packed.shape == (-(-count // 8), bits) and packed.dtype == np.uint8
    stream = sum(int(v) << (bits * k) for k, v in enumerate(values))
    assert int.from_bytes(packed.tobytes(), "little") == stream
    matrix = zero_points.shares(bits)
    assert matrix.shape == (bits, 8) and matrix.dtype == np.float32
    for place in range(8):
        read = range(place * bits // 8, (place * bits + bits - 1) // 8 + 1)
        assert np.flatnonzero(matrix[:, place]).tolist() == list(read)
    found = np.floor((packed.astype(np.float32) @ matrix) % (1 << bits)).reshape(-1)
    assert found[:count].tolist() == values.tolist() and not found[count:].any()


@pytest.mark.parametrize(
    ("opset", "count", "names", "known"),
    [(9, 9, ["packed", "like"], {"count": [9]}), (9, 8, ["packed", "like"], {}), (10, 9, ["packed", "like"], {}),
     (11, 9, ["packed", "like"], {}), (12, 9, ["packed"], {"shape": [3, 3]}), (12, 8, ["packed"], {"shape": [3, 3]})],
)  # fmt: skip
def test_what_the_function_is_told_of_zero_points(
    opset: int, count: int, names: list[str], known: dict[str, list[int]]
) -> None:
    assert zero_points.inputs(opset) == names
    assert zero_points.attributes(count, (3, 3), opset) == known
    assert zero_points.has_tail(count) == (count == 9)
    function = zero_points.build(count, 3, opset)
    assert function.name == ("ZeroPoint3Tail" if count == 9 else "ZeroPoint3") and function.domain == "mixquant"
    assert (list(function.input), list(function.output)) == (names, ["zero_point"])
    assert list(function.attribute) == list(known)
    assert [(i.domain, i.version) for i in function.opset_import] == [("", opset)]
    assert function is zero_points.build(count + 8, 3, opset)


@pytest.mark.parametrize("bits", [2, 3, 7])
@pytest.mark.parametrize("opset", OPSETS)
def test_onnx_runtime_unpacks_zero_points(opset: int, bits: int) -> None:
    for shape in ((2, 4), (3, 7), (1, 5, 1)):
        values = np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8)
        function = zero_points.build(values.size, bits, opset)
        known: dict[str, Any] = dict(zero_points.attributes(values.size, shape, opset))
        node = helper.make_node(function.name, zero_points.inputs(opset), ["w"], domain="mixquant", **known)
        tensors = (
            numpy_helper.from_array(zero_points.pack_stream(values, bits), "packed"),
            numpy_helper.from_array(np.ones(shape, np.float16), "like"),
        )
        encoded = Encoded(tensors=tensors, nodes=(node,), functions=(function,), nbytes=0)
        assert np.array_equal(run(model_of(encoded, TensorProto.UINT8, opset, values.ndim), {})[0], values)


# --- decoder functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "opset", "small_ints", "narrow"),
    [(7, 14, True, True), (8, 14, True, False), (7, 13, True, False), (7, 14, False, False), (2, 21, True, True)],
)
def test_eight_bit_integers_are_added_from_opset_14(bits: int, opset: int, small_ints: bool, narrow: bool) -> None:
    assert functions.is_narrow(bits, opset, small_ints) is narrow
    variant = functions.Variant(bits=bits, form="fold", tail=False, opset=opset, small_ints=small_ints)
    assert variant.narrow is narrow
    assert functions.is_narrow(7, 14) is True


VARIANTS: list[tuple[dict[str, Any], str, str]] = [
    ({"form": "fold"}, "DequantizeLinear3", "plane2 plane1 zero_point scale shape"),
    ({"form": "fold", "bits": 8}, "DequantizeLinear8", "codes zero_point scale"),
    ({"form": "fold", "tail": True}, "DequantizeLinear3Tail", "plane2 plane1 zero_point scale shape count"),
    ({"form": "fold", "tail": True, "opset": 9}, "DequantizeLinear3Tail", "plane2 plane1 zero_point scale shape"),
    ({"form": "fold", "tail": True, "opset": 10}, "DequantizeLinear3Tail",
     "plane2 plane1 zero_point scale shape count"),
    ({"form": "blocks", "bits": 8}, "DequantizeLinear8Blocks", "codes zero_point scale view shape"),
    ({"form": "ragged", "bits": 4}, "DequantizeLinear4RaggedBlocks", "plane4 zero_point scale view shape"),
    ({"form": "ragged", "bits": 4, "opset": 12}, "DequantizeLinear4RaggedBlocks", "plane4 zero_point scale view shape"),
    ({"form": "ragged", "bits": 4, "opset": 11, "one_zero": True, "tail": True},
     "DequantizeLinear4RaggedBlocksOneZeroTail", "plane4 zero_point scale view block_of shape count"),
    ({"form": "matmul8"}, "DequantizeLinear3MatMul8", "plane2 plane1 zero_point scale shape scale_shape"),
    ({"form": "matmul4"}, "DequantizeLinear3MatMul4", "plane2 plane1 zero_point scale shape scale_shape"),
    ({"form": "codes"}, "Unpack3", "plane2 plane1 shape"),
    ({"form": "codes", "tail": True}, "Unpack3Tail", "plane2 plane1 shape count"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name", "inputs"), VARIANTS, ids=str)
def test_functions_are_named_by_result_and_take_what_they_need(fields: dict[str, Any], name: str, inputs: str) -> None:
    variant = functions.Variant(**{"bits": 3, "tail": False, "opset": 21, **fields})
    function = functions.build(variant)
    assert variant.name == function.name == name and function.domain == "mixquant"
    assert variant.inputs() == list(function.input) == inputs.split()
    assert [(i.domain, i.version) for i in function.opset_import] == [("", variant.opset)]
    block = variant.form in ("matmul8", "matmul4") or (variant.form == "ragged" and variant.opset >= 12)
    counted = variant.tail and variant.opset < 10
    assert list(function.attribute) == ["block_size"] * block + ["count"] * counted
    assert variant.form == "codes" or list(function.output) == ["weight"]
    assert {node.output[0] for node in function.node} >= set(function.output)
    assert len({name for node in function.node for name in node.output}) == len(function.node)


def test_a_body_names_what_it_computes() -> None:
    body = functions.Body()
    assert body.add("Cast", "x", to=1) == "cast_0"
    assert body.add("Add", "cast_0", "y", output="z") == "z"
    assert body.constant(np.array([3], np.int64)) == "constant_2"
    assert lines(body.nodes)[:2] == [": cast_0 = Cast(x) to=1", ": z = Add(cast_0,y)"]
    assert numpy_helper.to_array(body.nodes[2].attribute[0].t).tolist() == [3]


def test_an_attribute_of_a_node_is_one_of_the_call() -> None:
    same, other = functions.reference("a"), functions.reference("a", "b", AttributeProto.INTS)
    assert (same.name, same.ref_attr_name, same.type) == ("a", "a", AttributeProto.INT)
    assert (other.name, other.ref_attr_name, other.type) == ("b", "a", AttributeProto.INTS)


def test_padding_is_dropped_by_a_slice() -> None:
    old, new = functions.Body(), functions.Body()
    assert functions.without_padding(old, 9, "c") == "slice_0"
    assert lines(old.nodes) == [": slice_0 = Slice(c) axes=[1] starts=[0] ends=@count"]
    assert functions.without_padding(new, 10, "c") == "slice_1"
    assert functions.without_padding(new, 10, "c", "n") == "slice_3"
    assert lines(new.nodes)[1::2] == [": slice_1 = Slice(c,constant_0,count)", ": slice_3 = Slice(c,constant_2,n)"]


def types_of(function: FunctionProto, op: str) -> list[int]:
    return [_value(node.attribute[0]) for node in function.node if node.op_type == op]


def test_narrow_codes_are_combined_as_int8_and_others_as_float32() -> None:
    def tables(function: FunctionProto) -> set[int]:
        values = [n.attribute[0].t for n in function.node if n.op_type == "Constant"]
        return {t.data_type for t in values if t.dims[:1] == [256]}

    fold = functions.Variant(bits=3, form="fold", tail=False, opset=14)
    wide = functions.Variant(bits=3, form="fold", tail=False, opset=13)
    assert tables(functions.build(fold)) == {TensorProto.INT8}
    assert tables(functions.build(wide)) == {TensorProto.FLOAT}
    assert tables(functions.build(functions.Variant(bits=3, form="codes", tail=False, opset=14))) == {TensorProto.UINT8}
    assert tables(functions.build(functions.Variant(bits=3, form="codes", tail=False, opset=13))) == {TensorProto.FLOAT}
    int32, int8, single = TensorProto.INT32, TensorProto.INT8, TensorProto.FLOAT
    assert types_of(functions.build(fold), "Cast") == [single, int32, int32, int8, single]
    assert types_of(functions.build(wide), "Cast") == [single, int32, int32, single]
    whole = functions.Variant(bits=8, form="matmul8", tail=False, opset=21)
    assert types_of(functions.build(whole), "Cast") == [single]
    four = functions.Variant(bits=4, form="matmul4", tail=False, opset=21)
    assert types_of(functions.build(four), "Cast") == [int32, single, TensorProto.UINT4, TensorProto.UINT4]


# --- builder ---------------------------------------------------------------------------------------------------------


def test_tensors_are_stored_under_fresh_names_and_counted_where_asked() -> None:
    builder = Builder(weight(), "w", 21, marked)
    assert builder.store("a", np.arange(6, dtype=np.float32).reshape(2, 3).T, counted=True) == "w.a'"
    assert builder.store("b", np.arange(4, dtype=np.float16)) == "w.b'"
    assert builder.shape("c", (2, 3)) == "w.c'"
    builder.node("Cast", ["w.a'"], "v", "d", to=10)
    done = builder.finish("w")
    assert stored(done) == {"w.a'": (1, [3, 2]), "w.b'": (10, [4]), "w.c'": (7, [2])}
    assert array(done, "w.a'").tolist() == [[0, 3], [1, 4], [2, 5]] and array(done, "w.c'").tolist() == [2, 3]
    assert lines(done.nodes) == ["w.d': v = Cast(w.a') to=10"]
    assert (done.nbytes, done.functions) == (24, ())


def test_codes_of_four_and_two_bits_are_stored_in_the_types_of_onnx() -> None:
    for bits, kind, raw in ((4, TensorProto.UINT4, [0x21, 0x43, 0x05]), (2, TensorProto.UINT2, [0b00_11_10_01, 0b01])):
        codes = np.array([[1, 2, 3, 4, 5]], np.uint8) & np.uint8((1 << bits) - 1)
        builder = Builder(weight(bits=bits), "w", 25, marked)
        assert builder.store_packed("codes", codes, kind) == "w.codes'"
        done = builder.finish("w")
        assert stored(done) == {"w.codes'": (kind, [1, 5])}
        assert list(done.tensors[0].raw_data) == raw and done.nbytes == len(raw)


def test_outlines_are_stored_without_data_and_counted() -> None:
    values = np.zeros((24, 7), np.float32)
    for bits, opset in ((3, 21), (4, 21), (8, 21), (2, 25)):
        empty = outline(site(values, MATMUL), Scheme(bits=bits, grid=CHANNEL))
        real = weight((24, 7), MATMUL, bits)
        for made, like in (
            (encode_folded(empty, "w", opset, marked), encode_folded(real, "w", opset, marked)),
            (encode_native(empty, "w", opset, True, marked), encode_native(real, "w", opset, True, marked)),
        ):
            assert made is not None and like is not None
            assert made.nbytes == like.nbytes and lines(made.nodes) == lines(like.nodes)
            assert [(t.name, t.data_type, t.dims) for t in made.tensors] == [
                (t.name, t.data_type, t.dims) for t in like.tensors
            ] or opset == 21
            kept = [t.name for t in made.tensors if t.HasField("raw_data")]
            assert kept == [t.name for t in like.tensors if t.data_type == TensorProto.INT64]
            assert sizes.encoded_bytes(made, True) == pytest.approx(sizes.encoded_bytes(like, True), abs=20)


def test_other_types_are_cast_at_the_end() -> None:
    done = encode_folded(weight(bits=8, dtype="float16"), "w", 21, marked)
    assert lines(done.nodes) == [
        "w.dequantize': w.float32' = mixquant.DequantizeLinear8(w.codes',w.zero_point',w.scale')",
        "w.cast': w = Cast(w.float32') to=10",
    ]
    for dtype in ("float16", "float64"):
        for opset in (10, 21):
            check(weight(dtype=dtype), encode_folded(weight(dtype=dtype), "w", opset, marked), opset)


# --- folded ----------------------------------------------------------------------------------------------------------


def call(encoded: Encoded) -> str:
    [line] = lines(encoded.nodes)
    return line


def test_a_folded_weight_is_one_call() -> None:
    planes = "w.plane2',w.plane1'"
    done = encode_folded(weight(), "w", 21, marked)
    assert call(done) == (
        f"w.dequantize': w = mixquant.DequantizeLinear3Tail({planes},w.zero_point',w.scale',w.shape',w.count')"
    )
    assert stored(done) == {
        "w.plane2'": (2, [9, 2]), "w.plane1'": (2, [9]), "w.scale'": (10, [1, 5]), "w.zero_point'": (2, [1, 5]),
        "w.shape'": (7, [2]), "w.count'": (7, [1]),
    }  # fmt: skip
    assert array(done, "w.shape'").tolist() == [13, 5] and array(done, "w.count'").tolist() == [65]
    assert [f.name for f in done.functions] == ["DequantizeLinear3Tail"]
    plain, wide = (encode_folded(weight(), "w", 21, marked, small) for small in (True, False))
    assert str(done.functions) == str(plain.functions) != str(wide.functions)
    early = encode_folded(weight(), "w", 9, marked)
    assert call(early).endswith("(w.plane2',w.plane1',w.zero_point',w.scale',w.shape') count=[65]")
    assert call(encode_folded(weight(), "w", 10, marked)).endswith("w.shape',w.count')")
    even = encode_folded(weight((24, 7)), "w", 21, marked)
    assert call(even).startswith("w.dequantize': w = mixquant.DequantizeLinear3(") and "count" not in call(even)
    whole = encode_folded(weight(bits=8), "w", 21, marked)
    assert call(whole).endswith("DequantizeLinear8(w.codes',w.zero_point',w.scale')")
    assert (
        stored(whole)["w.codes'"] == (2, [13, 5]) and array(whole, "w.codes'").tolist() == weight(bits=8).codes.tolist()
    )


def test_a_folded_weight_in_blocks_is_told_their_size_or_place() -> None:
    whole = encode_folded(weight((24, 7), grid=B4), "w", 21, marked)
    assert call(whole) == (
        "w.dequantize': w = mixquant.DequantizeLinear3Blocks"
        "(w.plane2',w.plane1',w.zero_point',w.scale',w.view',w.shape')"
    )
    assert stored(whole)["w.scale'"] == (10, [1, 6, 1, 7]) and array(whole, "w.view'").tolist() == [1, 6, 4, 7]
    assert stored(whole)["w.zero_point'"] == (2, [1, 6, 1, 7])
    ragged = encode_folded(weight(grid=B5), "w", 12, marked)
    assert call(ragged) == (
        "w.dequantize': w = mixquant.DequantizeLinear3RaggedBlocksTail"
        "(w.plane2',w.plane1',w.zero_point',w.scale',w.view',w.shape',w.count') block_size=5"
    )
    early = encode_folded(weight(grid=B5), "w", 11, marked)
    assert call(early).endswith("w.zero_point',w.scale',w.view',w.block_of',w.shape',w.count')")
    assert array(early, "w.block_of'").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert stored(early)["w.block_of'"] == (2, [13]) and array(early, "w.view'").tolist() == [1, 13, 5]
    symmetric = encode_folded(weight(grid=B5, symmetric=True), "w", 12, marked)
    assert "RaggedBlocksOneZeroTail(" in call(symmetric)


def test_places_of_more_than_256_blocks_are_int32() -> None:
    two = Granularity(per="block", block=2)
    for length, kind in ((511, TensorProto.UINT8), (513, TensorProto.INT32)):
        q = weight((length, 1), grid=two)
        made = encode_folded(q, "w", 11, marked)
        assert stored(made)["w.block_of'"] == (kind, [length])
        check(q, made, 11)


FOLDED = [("Conv", CHANNEL), ("ConvTranspose", CHANNEL), ("odd", TENSOR), ("odd", B4), ("MatMul of rank 3", B5),
          ("MatMul", B4), ("one weight", CHANNEL), ("LSTM", B4)]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("case", "grid"), FOLDED, ids=str)
def test_a_folded_weight_is_its_dequantized_codes(
    case: str, grid: Granularity, opset: int, packed: bool, request: pytest.FixtureRequest
) -> None:
    if packed:
        request.getfixturevalue("all_packed")
    layout, shape = LAYOUTS[case]
    for bits, symmetric in ((3, False), (7, True), (8, False)):
        q = weight(shape, layout, bits, grid, symmetric)
        encoded = encode_folded(q, "w", opset, marked)
        check(q, encoded, opset)
        check(q, encode_folded(q, "w", opset, marked, small_ints=False), opset)


@pytest.mark.usefixtures("all_packed")
def test_packed_zero_points_are_unpacked_by_a_call() -> None:
    made = encode_folded(weight(), "w", 21, marked)
    assert lines(made.nodes)[0] == "w.unpack_zero': w.zero' = mixquant.ZeroPoint3Tail(w.zero_point') shape=[1, 5]"
    assert "w.plane1',w.zero',w.scale'" in lines(made.nodes)[1]
    assert stored(made)["w.zero_point'"] == (2, [1, 3])
    early = encode_folded(weight(), "w", 9, marked)
    assert (
        lines(early.nodes)[0] == "w.unpack_zero': w.zero' = mixquant.ZeroPoint3Tail(w.zero_point',w.scale') count=[5]"
    )
    assert [f.name for f in made.functions] == ["ZeroPoint3Tail", "DequantizeLinear3Tail"]
    assert lines(encode_folded(weight(symmetric=True), "w", 21, marked).nodes)[0].startswith("w.dequantize'")


@pytest.mark.parametrize(
    ("bits", "opset", "small_ints", "release"),
    [(3, 14, True, (1, 21)), (3, 13, True, (0, 0)), (3, 14, False, (0, 0)), (8, 21, True, (0, 0))],
)
def test_releases_that_load_codes_in_eight_bit_integers(
    bits: int, opset: int, small_ints: bool, release: Release
) -> None:
    assert Folded(bits=bits, small_ints=small_ints).loads_from(opset) == release
    assert DequantizeLinear(bits=bits, small_ints=small_ints).loads_from(opset) == release


@pytest.mark.parametrize(("bits", "small_ints", "opset"), [(3, True, 14), (7, True, 14), (8, True, 7), (3, False, 7)])
def test_the_folded_storage_of_a_weight(bits: int, small_ints: bool, opset: int) -> None:
    options = SimpleNamespace(small_ints=small_ints)
    given = cast(WeightInModel, SimpleNamespace(scheme=Scheme(bits=bits, grid=CHANNEL), options=options))
    assert offer(given) == Folded(bits=bits, opset=opset, small_ints=small_ints)
    assert offer(given).name == "folded" and offer(given).needs == 7
    q = weight(bits=bits)
    mine, wanted = offer(given).encode(q, "w", 14, marked), encode_folded(q, "w", 14, marked, small_ints)
    assert [str(f) for f in mine.functions] == [str(f) for f in wanted.functions]
    assert (mine.tensors, mine.nodes) == (wanted.tensors, wanted.nodes)


# --- DequantizeLinear ------------------------------------------------------------------------------------------------


LEAST = [
    ("Conv", TENSOR, 10), ("Conv", CHANNEL, 13), ("MatMul", CHANNEL, 13), ("Gemm transB", CHANNEL, 13),
    ("MatMul of rank 3", CHANNEL, 21), ("ConvTranspose", CHANNEL, 13), ("LSTM", CHANNEL, 13), ("odd", B4, 21),
    ("MatMul of rank 3", B4, 21), ("odd", Granularity(per="block", block=13), 13), ("Gemm transB", B4, 21),
    ("whole", CHANNEL, 13),
]  # fmt: skip


@pytest.mark.parametrize(("case", "grid", "opset"), LEAST, ids=str)
def test_the_first_opset_with_a_granularity(case: str, grid: Granularity, opset: int) -> None:
    layout, shape = LAYOUTS[case]
    assert least_opset(shape, layout, grid) == opset
    assert [opset_for(shape, layout, grid, bits) for bits in (8, 4, 3, 2)] == [
        opset, 21, max(opset, 14), max(opset, 14),
    ]  # fmt: skip
    for bits in (3, 4, 8):
        q = weight(shape, layout, bits, grid)
        assert encode_native(q, "w", opset - 1, True, marked) is None
        check(q, encode_native(q, "w", opset, True, marked), opset)


def test_no_opset_has_rows_between_reduced_axes() -> None:
    layout, shape = WeightAxes(p=1, r=1, q=1, s=1), (2, 3, 4, 5)
    assert least_opset(shape, layout, CHANNEL) == NEVER == 1 << 30
    assert [opset_for(shape, layout, CHANNEL, bits) for bits in (8, 4, 3)] == [14, 14, 14]
    assert encode_native(weight(shape, layout), "w", 25, True, marked) is None
    assert [least_opset((2, 3, 4, s), layout, CHANNEL) for s in (1, 2)] == [21, NEVER]


def test_two_channels_have_two_scales_and_zero_points() -> None:
    q = replace(weight((24, 2)), scale=np.array([[[1, 2]]], np.float16), zero_point=np.array([[[3, 5]]], np.uint8))
    native = encode_native(q, "w", 21, True, marked)
    assert native is not None
    for made in (native, encode_folded(q, "w", 21, marked)):
        check(q, made, 21)
        assert array(made, "w.scale'").reshape(-1).tolist() == [1, 2]
        assert array(made, "w.zero_point'").reshape(-1).tolist() == [3, 5]


NATIVE: list[tuple[str, Granularity, int, str, list[int], list[int]]] = [
    ("Conv", TENSOR, 8, "", [6, 4, 3, 3], [1]),
    ("Conv", CHANNEL, 8, " axis=0", [6, 4, 3, 3], [6]),
    ("LSTM", CHANNEL, 8, " axis=0", [24, 7], [24]),
    ("MatMul", CHANNEL, 8, " axis=1", [24, 7], [7]),
    ("ConvTranspose", CHANNEL, 4, " axis=1", [9, 4, 3, 2], [4]),
    ("MatMul of rank 3", CHANNEL, 8, " axis=1 block_size=13", [3, 13, 5], [3, 1, 5]),
    ("MatMul", B4, 4, " axis=0 block_size=4", [24, 7], [6, 7]),
    ("odd", B4, 8, " axis=0 block_size=4", [13, 5], [4, 5]),
    ("Gemm transB", B5, 4, " axis=1 block_size=5", [7, 24], [7, 5]),
    ("MatMul of rank 3", B5, 8, " axis=1 block_size=5", [3, 13, 5], [3, 3, 5]),
    ("Conv", B5, 8, " axis=1 block_size=5", [6, 36, 1], [6, 8, 1]),
    ("ConvTranspose", B4, 4, " axis=1 block_size=4", [1, 9, 24], [1, 3, 24]),
]


@pytest.mark.parametrize(("case", "grid", "bits", "attributes", "codes", "params"), NATIVE, ids=str)
def test_a_weight_behind_dequantize_linear(
    case: str, grid: Granularity, bits: int, attributes: str, codes: list[int], params: list[int]
) -> None:
    layout, shape = LAYOUTS[case]
    kind = TensorProto.UINT4 if bits == 4 else TensorProto.UINT8
    for symmetric in (False, True):
        q = weight(shape, layout, bits, grid, symmetric)
        made = encode_native(q, "w", 21, True, marked)
        check(q, made, 21)
        assert made is not None
        flat = "w" if codes == list(shape) else "w.flat'"
        wanted = [f"w.dequantize': {flat} = DequantizeLinear(w.codes',w.scale',w.zero_point'){attributes}"]
        if flat != "w":
            wanted.append("w.reshape': w = Reshape(w.flat',w.logical_shape')")
            assert array(made, "w.logical_shape'").tolist() == list(shape)
        assert lines(made.nodes) == wanted
        kept = {name: (kind, dims or [1]) for name, (kind, dims) in stored(made).items()}
        kept.pop("w.logical_shape'", None)
        assert kept == {"w.codes'": (kind, codes), "w.scale'": (1, params), "w.zero_point'": (kind, params)}


@pytest.mark.parametrize(
    ("bits", "opset", "two_bits", "kind"),
    [(4, 21, False, TensorProto.UINT4), (4, 20, True, None), (2, 25, True, TensorProto.UINT2), (2, 25, False, None),
     (2, 24, True, None), (3, 25, True, None)],
)  # fmt: skip
def test_types_below_eight_bits_are_used_from_their_opset_on(
    bits: int, opset: int, two_bits: bool, kind: int | None
) -> None:
    q = weight(bits=bits)
    made = encode_native(q, "w", opset, two_bits, marked)
    assert made is not None
    if opset < 25:
        check(q, made, opset)
    if kind is not None:
        assert stored(made)["w.codes'"] == (kind, [13, 5]) and stored(made)["w.zero_point'"] == (kind, [5])
        assert not made.functions
        return
    assert stored(made)["w.zero_point'"] == (2, [5])
    planes = ",".join(f"w.plane{width}'" for width, _ in shifts(bits))
    assert lines(made.nodes) == [
        f"w.unpack': w.codes' = mixquant.Unpack{bits}Tail({planes},w.shape',w.count')",
        "w.dequantize': w = DequantizeLinear(w.codes',w.scale',w.zero_point') axis=1",
    ]


def test_codes_are_unpacked_in_small_integers_or_floats() -> None:
    plain, wide = (encode_native(weight(), "w", 21, True, marked, small) for small in (True, False))
    default = encode_native(weight(), "w", 21, True, marked)
    assert plain is not None and wide is not None and default is not None
    assert str(plain.functions) == str(default.functions) != str(wide.functions)
    check(weight(), wide, 21)
    check(weight(dtype="float16"), encode_native(weight(dtype="float16"), "w", 13, True, marked), 13)


def test_the_storage_behind_dequantize_linear() -> None:
    form = DequantizeLinear(bits=2, two_bits=False, small_ints=False)
    assert form.name == "DequantizeLinear" and form.not_slower_from() is None and not form.needs_vnni
    q = weight(bits=2)
    made, wanted = form.encode(q, "w", 25, marked), encode_native(q, "w", 25, False, marked, False)
    assert wanted is not None and made.nodes == wanted.nodes and str(made.functions) == str(wanted.functions)
    plain, default = (
        DequantizeLinear(bits=3).encode(weight(), "w", 21, marked),
        encode_native(weight(), "w", 21, True, marked),
    )
    assert default is not None and str(plain.functions) == str(default.functions)
    other = DequantizeLinear(bits=2).encode(q, "w", 25, marked)
    assert stored(other)["w.codes'"][0] == TensorProto.UINT2
    with pytest.raises(AssertionError, match=r"^opset 12 is below 13$"):
        DequantizeLinear(bits=2, needs=13).encode(q, "w", 12, marked)


# --- MatMulNBits -----------------------------------------------------------------------------------------------------

EIGHT, FOUR = Kernel(bits=8, block=16), Kernel(bits=4, block=16)
B16 = Granularity(per="block", block=16)


@pytest.mark.usefixtures("all_packed")
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("bits", "kernel"), [(3, EIGHT), (3, FOUR), (4, FOUR), (8, EIGHT), (6, EIGHT)])
def test_a_weight_for_the_fused_kernel_is_its_dequantized_codes(bits: int, kernel: Kernel, transpose: bool) -> None:
    for (k, n), grid, symmetric in (((35, 3), B16, False), ((32, 2), CHANNEL, False), ((33, 5), B16, True)):
        shape, layout = ((n, k), GEMM) if transpose else ((k, n), MATMUL)
        q = weight(shape, layout, bits, grid, symmetric)
        check(q, encode_matmul(q, "w", kernel, transpose, 21, marked), 21, transpose=transpose)


def test_a_weight_for_the_fused_kernel_is_one_call() -> None:
    q = weight((35, 3), MATMUL, 3, B16)
    made = encode_matmul(q, "w", EIGHT, False, 21, marked)
    names = "w.plane2',w.plane1',w.zero_point',w.scale',w.shape',w.scale_shape',w.count'"
    assert call(made) == f"w.dequantize': w = mixquant.DequantizeLinear3MatMul8Tail({names}) block_size=16"
    assert stored(made)["w.scale'"] == (10, [3, 3]) and stored(made)["w.zero_point'"] == (2, [3, 3])
    assert array(made, "w.shape'").tolist() == [35, 3] and array(made, "w.scale_shape'").tolist() == [3, 3]
    assert array(made, "w.count'").tolist() == [105]
    four = encode_matmul(weight((32, 2), MATMUL, 4, CHANNEL), "w", FOUR, False, 21, marked)
    assert "DequantizeLinear4MatMul4(" in call(four) and array(four, "w.scale_shape'").tolist() == [2, 2]
    whole = encode_matmul(weight((3, 35), GEMM, 8, B16), "w", EIGHT, True, 21, marked)
    assert stored(whole)["w.codes'"] == (2, [35, 3]) and stored(whole)["w.scale'"] == (10, [3, 3])


@pytest.mark.parametrize(
    ("bits", "kernel", "opset", "release"),
    [(3, EIGHT, 21, (1, 21)), (8, EIGHT, 21, (0, 0)), (3, EIGHT, 13, (0, 0)), (4, FOUR, 21, (1, 23)),
     (4, FOUR, 13, (1, 23))],
)  # fmt: skip
def test_the_storage_for_a_fused_kernel(bits: int, kernel: Kernel, opset: int, release: Release) -> None:
    form = MatMulNBits(bits=bits, kernel=kernel)
    assert form.name == f"MatMulNBits {kernel.bits}" and form.fused and form.needs == form.opset == 21
    assert form.loads_from(opset) == release and form.not_slower_from() == (1, 25)
    assert not form.needs_vnni and MatMulNBits(bits=bits, kernel=kernel, many_rows=True).needs_vnni


def test_a_weight_whose_axes_are_swapped_has_a_name_of_its_own() -> None:
    q, t = weight((35, 3), MATMUL, 3, B16), weight((3, 35), GEMM, 3, B16)
    plain = MatMulNBits(bits=3, kernel=EIGHT).encode(q, "w", 21, marked)
    swapped = MatMulNBits(bits=3, kernel=EIGHT, transpose=True).encode(t, "w", 21, marked)
    assert (plain.nodes[-1].output, swapped.nodes[-1].output) == (["w"], ["w.transposed'"])
    check(q, plain, 21)
    check(t, swapped, 21, "w.transposed'", transpose=True)
    assert "MatMul4" in call(MatMulNBits(bits=3, kernel=FOUR).encode(q, "w", 21, marked))


# --- storages --------------------------------------------------------------------------------------------------------


def test_the_first_storage_that_an_opset_allows_is_taken() -> None:
    forms: list[Storage] = [DequantizeLinear(bits=3, needs=21), DequantizeLinear(bits=3, needs=13), Folded(bits=3)]
    assert [at_opset(forms, opset) for opset in (21, 20, 13, 12, 7)] == [
        forms[0],
        forms[1],
        forms[1],
        forms[2],
        forms[2],
    ]
    assert at_opset(forms[:2], 7) is at_opset([forms[0], forms[0], forms[1]], 7) is forms[1]
    assert (forms[2].needs, forms[2].opset, forms[2].fused, forms[2].needs_vnni) == (7, 7, False, False)
    assert forms[2].not_slower_from() == EVERY_RELEASE == (0, 0)
    assert Storage.loads_from(forms[2], 21) == (0, 0)


# --- outlines and sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "scheme", "nbytes"),
    [((13, 5), Scheme(bits=3, grid=CHANNEL), 27 + 10 + 5), ((13, 5), Scheme(bits=8, grid=CHANNEL), 65 + 10 + 5),
     ((13, 5), Scheme(bits=3, grid=B4), 27 + 40 + 20), ((13, 5), Scheme(bits=3, grid=CHANNEL, symmetric=True), 27 + 11),
     ((13, 5), Scheme(bits=3, grid=TENSOR), 27 + 3),
     ((13, 5), Scheme(bits=3, grid=Granularity(per="block", block=13)), 42),
     ((8, 2000), Scheme(bits=4, grid=CHANNEL), 8000 + 4000 + 1000)],
    ids=str,
)  # fmt: skip
def test_the_bytes_of_a_weight_are_known_before_it_is_quantized(
    shape: tuple[int, int], scheme: Scheme, nbytes: int
) -> None:
    values = np.zeros(shape, np.float32)
    assert nbytes_of(site(values, MATMUL), scheme) == nbytes
    half, wide = outline(site(values, MATMUL), scheme), outline(site(values, MATMUL), scheme, wide_scales=True)
    assert encode_folded(half, "w", 21, marked).nbytes == nbytes
    params = params_shape(shape, MATMUL, effective_grid(shape, MATMUL, scheme.grid))
    zeros = (1, 1, 1) if scheme.symmetric else params
    for drawn, kind in ((half, "float16"), (wide, "float32")):
        for part, form, dtype in (
            (drawn.codes, shape, "uint8"), (drawn.scale, params, kind), (drawn.zero_point, zeros, "uint8")
        ):  # fmt: skip
            assert (part.shape, part.dtype.name, part.strides) == (form, dtype, (0,) * len(form)) and not part.any()
        assert (drawn.scheme, drawn.layout, drawn.dtype) == (scheme, MATMUL, "float32")
    assert outline(site(values.astype(np.float16), MATMUL), scheme).dtype == "float16"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16383, 16384, 2097151, 2097152])
def test_a_field_takes_its_tag_its_length_and_its_content(size: int) -> None:
    message = TensorProto(raw_data=bytes(size))
    assert sizes.framed(size) == message.ByteSize()


def tensors() -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.ones(shape, kind), name)
        for shape, kind, name in (((3, 5), np.float32, "a"), ((200,), np.float16, "a" * 200), ((), np.int64, ""))
    ]


@pytest.mark.parametrize("tensor", tensors(), ids=lambda t: t.name[:1])
def test_sizes_are_those_of_protobuf(tensor: TensorProto) -> None:
    graph, empty = helper.make_graph([], "g", [], [], [tensor]), helper.make_graph([], "g", [], [])
    assert raw_nbytes(tensor) == len(tensor.raw_data)
    assert sizes.tensor_bytes(tensor) == sizes.tensor_bytes(tensor, external=True) == tensor.ByteSize()
    assert sizes.initializer_bytes(tensor) == graph.ByteSize() - empty.ByteSize()
    drawn = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.name:
        drawn.name = tensor.name
    assert raw_nbytes(drawn) == len(tensor.raw_data)
    assert sizes.tensor_bytes(drawn) == pytest.approx(tensor.ByteSize(), abs=2 if tensor.name else 4)
    node = helper.make_node("Constant", [], [tensor.name], value=tensor)
    node.attribute[0].t.ClearField("name")
    body = helper.make_graph([node], "g", [], [])
    assert sizes.constant_bytes(tensor) == body.ByteSize() - empty.ByteSize() == sizes.node_bytes(node)


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [(TensorProto.UINT4, [3, 3], 5), (TensorProto.UINT2, [3, 3], 3), (TensorProto.INT4, [3, 3], 5),
     (TensorProto.UINT8, [9], 9),
     (TensorProto.FLOAT, [2, 3], 24), (TensorProto.DOUBLE, [], 8)],
)  # fmt: skip
def test_types_below_eight_bits_are_measured_in_bits(kind: int, dims: list[int], size: int) -> None:
    assert raw_nbytes(TensorProto(data_type=kind, dims=dims)) == size


def test_large_tensors_go_to_the_external_file() -> None:
    small, large = (numpy_helper.from_array(np.zeros(n, np.uint8), "t") for n in (1023, 1024))
    framing = large.ByteSize() - 1024 - 3
    assert sizes.tensor_bytes(small, external=True) == small.ByteSize()
    assert sizes.tensor_bytes(large) == large.ByteSize()
    assert sizes.tensor_bytes(large, external=True) == framing + 1024 + 126
    drawn = TensorProto(name="t", data_type=TensorProto.UINT8, dims=[1024])
    assert sizes.tensor_bytes(drawn, external=True) == sizes.tensor_bytes(large, external=True)
    assert sizes.initializer_bytes(large, external=True) == 3 + framing + 1024 + 126
    model = helper.make_model(helper.make_graph([], "g", [], [], [small, large, large]))
    assert sizes.model_bytes(model, external=False) == model.ByteSize()
    assert sizes.model_bytes(model, external=True) == model.ByteSize() + 2 * 126


def test_the_parts_of_a_weight_add_up_to_what_a_model_grows() -> None:
    made = encode_folded(weight(), "w", 21, marked)
    empty = helper.make_graph([], "g", [], []).ByteSize()
    graph = helper.make_graph(made.nodes, "g", [], [], made.tensors)
    assert sizes.encoded_bytes(made, in_graph=True) == graph.ByteSize() - empty
    nodes: list[NodeProto] = [*made.nodes]
    for tensor in made.tensors:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        node.attribute[0].t.ClearField("name")
        nodes.append(node)
    assert sizes.encoded_bytes(made, in_graph=False) == helper.make_graph(nodes, "g", [], []).ByteSize() - empty
    large = Encoded(tensors=(numpy_helper.from_array(np.zeros(5000, np.uint8), "t"),), nodes=(), functions=(), nbytes=0)
    assert sizes.encoded_bytes(large, True, external=True) == sizes.initializer_bytes(large.tensors[0], True)
    assert sizes.encoded_bytes(large, True) == sizes.initializer_bytes(large.tensors[0])
    function = made.functions[0]
    model = helper.make_model(graph)
    before = model.ByteSize()
    model.functions.append(function)
    assert sizes.function_bytes(function) == model.ByteSize() - before


def test_bits_per_weight() -> None:
    assert sizes.bits_per_weight(3, 8) == 3 and sizes.bits_per_weight(3, 0) == 0
    assert math.isclose(sizes.bits_per_weight(10, 3), 80 / 3)
