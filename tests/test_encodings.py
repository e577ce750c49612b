"""Codes in, the same tensor out: packing, and every form as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import ml_dtypes
import numpy as np
import onnx
import pytest
from cases import LAYOUTS, PROPERTIES, Array, decibels, quantized, run, site
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings import packed_zero_points as zero_points
from mixquant_onnx.export.encodings.bit_planes import PLANES, pack, packed_bytes, unpack
from mixquant_onnx.export.encodings.builder import ONNX_TYPE, Encoded
from mixquant_onnx.export.encodings.dequantize_linear import encode_native
from mixquant_onnx.export.encodings.folded import encode_folded
from mixquant_onnx.export.encodings.matmul_nbits import Kernel, encode_matmul
from mixquant_onnx.export.encodings.outline import nbytes_of
from mixquant_onnx.numerics.granularity import ALL_BITS, Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid
from mixquant_onnx.numerics.scheme import QuantizedTensor

GRIDS = [
    Granularity(per="tensor"),
    Granularity(per="channel"),
    Granularity(per="block", block=4),
    Granularity(per="block", block=5),
]
DTYPES = {"float32": np.float32, "float16": np.float16, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(params=["packed where it pays", "all packed"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero points as they are stored, and all of them packed, though these tensors have few."""
    if request.param == "all packed":
        monkeypatch.setattr(zero_points, "packs", lambda count, bits: bits < 8 and count > 1)


def names() -> Callable[[str], str]:
    used: set[str] = set()

    def fresh(wish: str) -> str:
        while wish in used:
            wish += "_"
        used.add(wish)
        return wish

    return fresh


def every_case(bits: int) -> Iterator[tuple[str, QuantizedTensor]]:
    for (name, (layout, shape)), grid, symmetric in product(LAYOUTS.items(), GRIDS, (False, True)):
        yield f"{name} {grid} {symmetric}", quantized(shape, layout, bits, grid, symmetric)
    layout, shape = LAYOUTS["odd"]
    for dtype, grid in product(DTYPES, GRIDS):
        yield f"{dtype} {grid}", quantized(shape, layout, bits, grid, dtype=dtype)
    for grid in GRIDS:
        yield f"float32 scale {grid}", quantized(shape, layout, bits, grid, scale=np.float32)


def outputs_of(cases: dict[str, tuple[QuantizedTensor, Encoded]], opset: int) -> dict[str, Array]:
    """What ONNX Runtime makes of all of them, in one model; bfloat16 as float32."""
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    functions = {}
    outputs = []
    for name, (q, encoded) in cases.items():
        nodes += encoded.nodes
        tensors += encoded.tensors
        functions.update({f.name: f for f in encoded.functions})
        kind, value = ONNX_TYPE[q.dtype], name
        if q.dtype == "bfloat16":
            kind, value = TensorProto.FLOAT, f"{name} as float32"
            nodes.append(helper.make_node("Cast", [name], [value], to=kind))
        outputs.append(helper.make_tensor_value_info(value, kind, [None] * q.codes.ndim))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mixquant", 1)]
    graph = helper.make_graph(nodes, "g", [], outputs, tensors)
    newest = max(8, helper.find_min_ir_version_for(imports, ignore_unknown=True))
    model = helper.make_model(graph, functions=list(functions.values()), opset_imports=imports, ir_version=newest)
    onnx.checker.check_model(model)
    return dict(zip(cases, run(model, {}), strict=True))


def check(cases: dict[str, tuple[QuantizedTensor, Encoded]], opset: int) -> None:
    """Every value bit for bit, and its type."""
    assert cases
    for name, value in outputs_of(cases, opset).items():
        q = cases[name][0]
        wanted = q.dequantize(np.dtype(DTYPES[q.dtype]))
        if q.dtype == "bfloat16":
            wanted = wanted.astype(np.float32)
        assert value.dtype == wanted.dtype and value.shape == wanted.shape, name
        assert np.array_equal(value, wanted), f"{name}: off by {np.abs(value - wanted).max()}"


def stored_bytes(encoded: Encoded) -> int:
    """Bytes in the file of all but shapes and counts, which are int64."""
    return sum(len(tensor.raw_data) for tensor in encoded.tensors if tensor.data_type != TensorProto.INT64)


codes_of = st.sampled_from(ALL_BITS).flatmap(
    lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70))
)


@PROPERTIES
@given(codes_of)
def test_packed_codes_come_back_and_take_the_bytes_they_say(case: tuple[int, list[int]]) -> None:
    bits, values = case
    planes = pack(np.array(values, np.uint8), bits)
    assert unpack(planes, bits, len(values)).tolist() == values
    assert packed_bytes(len(values), bits) == sum(plane.nbytes for plane in planes)
    assert sum(plane.nbytes for plane in planes) * 8 < bits * (len(values) + 8)


def test_the_planes_of_a_width_add_up_to_it() -> None:
    assert {bits: sum(widths) for bits, widths in PLANES.items()} == {bits: bits for bits in ALL_BITS}


def test_a_byte_holds_the_first_code_in_its_low_bits() -> None:
    codes = np.array([0b101, 0b011, 0, 0b111, 0, 0, 0b100, 0b001], np.uint8)
    high, low = pack(codes, 3)
    assert high.tolist() == [0b11_00_01_10, 0b00_10_00_00]
    assert low.tolist() == [0b10001011]


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize(
    "opset", [7, 10, 13, 14, 21, *(pytest.param(n, marks=pytest.mark.slow) for n in (9, 11, 12, 18))]
)
def test_a_folded_weight_is_its_dequantized_codes(opset: int, bits: int) -> None:
    cases = {}
    for name, q in every_case(bits):
        if q.dtype != "bfloat16" or opset >= 13:
            cases[name] = q, encode_folded(q, name, opset, names())
    check(cases, opset)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_folded_weight_without_arithmetic_on_small_integers_is_the_same(bits: int) -> None:
    check({name: (q, encode_folded(q, name, 21, names(), small_ints=False)) for name, q in every_case(bits)}, 21)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_bytes_of_a_folded_weight_are_those_foretold(grid: Granularity) -> None:
    for bits, (layout, shape), symmetric, opset in product(ALL_BITS, LAYOUTS.values(), (False, True), (9, 12, 14)):
        q = quantized(shape, layout, bits, grid, symmetric)
        encoded = encode_folded(q, "w", opset, names())
        assert encoded.nbytes == stored_bytes(encoded)
        block_index = sum(len(t.raw_data) for t in encoded.tensors if t.name.endswith("block_of"))
        assert not (block_index and opset >= 12)
        foretold = nbytes_of(site(q.codes, layout), q.scheme)
        assert foretold + block_index == encoded.nbytes, f"{bits} bits, {shape} {layout}"


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_bytes_of_float32_scales_are_counted(bits: int) -> None:
    for (layout, shape), grid in product(LAYOUTS.values(), GRIDS):
        encoded = encode_folded(quantized(shape, layout, bits, grid, scale=np.float32), "w", 14, names())
        assert encoded.nbytes == stored_bytes(encoded)


MATMULS = [(256, 128), (77, 33), (64, 6), (130, 1)]
KERNELS = [Kernel(bits=8, block=32), Kernel(bits=8, block=64), Kernel(bits=4, block=32)]
FUSED = [(bits, kernel) for bits in ALL_BITS for kernel in KERNELS if bits <= kernel.bits]


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize(("bits", "kernel"), FUSED, ids=str)
@pytest.mark.parametrize("transpose", [False, True])
def test_a_weight_for_the_fused_kernel_is_its_dequantized_codes(bits: int, kernel: Kernel, transpose: bool) -> None:
    cases, wanted = {}, {}
    grids = [Granularity(per="tensor"), Granularity(per="channel"), Granularity(per="block", block=kernel.block)]
    for (k, n), grid, symmetric in product(MATMULS, grids, (False, True)):
        layout, shape = (WeightAxes(p=1, r=1), (n, k)) if transpose else (WeightAxes(r=1, q=1), (k, n))
        q = quantized(shape, layout, bits, grid, symmetric)
        name = f"{k}x{n} {grid} {symmetric}"
        encoded = encode_matmul(q, name, kernel, transpose, 21, names())
        assert encoded.nbytes == stored_bytes(encoded)
        cases[name] = q, encoded
        wanted[name] = q.dequantize(np.dtype(np.float32))
    for name, value in outputs_of(cases, 21).items():
        np.testing.assert_array_equal(value, wanted[name].T if transpose else wanted[name])


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize(("bits", "kernel"), FUSED, ids=str)
@pytest.mark.parametrize("transpose", [False, True])
def test_the_fused_kernel_multiplies_by_it(bits: int, kernel: Kernel, transpose: bool) -> None:
    grids = [Granularity(per="tensor"), Granularity(per="channel"), Granularity(per="block", block=kernel.block)]
    for (k, n), grid in product(MATMULS, grids):
        layout, shape = (WeightAxes(p=1, r=1), (n, k)) if transpose else (WeightAxes(r=1, q=1), (k, n))
        q = quantized(shape, layout, bits, grid)
        encoded = encode_matmul(q, "w", kernel, transpose, 21, names())
        model = with_matmul(encoded, k, n)
        x = np.random.default_rng(0).standard_normal((5, k)).astype(np.float32)
        value = q.dequantize(np.dtype(np.float64))
        assert decibels(x.astype(np.float64) @ (value.T if transpose else value), run(model, {"x": x})[0]) > 100


def with_matmul(encoded: Encoded, k: int, n: int) -> ModelProto:
    graph = helper.make_graph(
        [*encoded.nodes, helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", n])],
        encoded.tensors,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("mixquant", 1)]
    return helper.make_model(graph, functions=list(encoded.functions), opset_imports=imports, ir_version=10)


def says(layout: WeightAxes, shape: Sequence[int], grid: Granularity, opset: int) -> bool:
    """Whether DequantizeLinear has this granularity: one axis from opset 13, blocks along an axis from 21."""
    grid = effective_grid(tuple(shape), layout, grid)
    one_axis = grid.per == "tensor" or (grid.per == "channel" and 0 in (layout.p, layout.q))
    return opset >= (13 if one_axis else 21)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("two_bits", [False, True])
@pytest.mark.parametrize("opset", [13, 21, 25])
def test_a_weight_behind_dequantize_linear_is_its_dequantized_codes(opset: int, two_bits: bool, bits: int) -> None:
    cases, kinds = {}, set()
    for name, q in every_case(bits):
        if name.startswith("whole"):
            continue
        encoded = encode_native(q, name, opset, two_bits, names())
        assert (encoded is not None) == says(q.layout, q.codes.shape, q.scheme.grid, opset), name
        if encoded is None:
            continue
        assert encoded.nbytes == stored_bytes(encoded)
        assert "DequantizeLinear" in [node.op_type for node in encoded.nodes]
        kinds.add(encoded.tensors[0].data_type)
        cases[name] = q, encoded
    native = {8: TensorProto.UINT8, 4: TensorProto.UINT4 if opset >= 21 else TensorProto.UINT8}
    if opset >= 25 and two_bits:
        native[2] = TensorProto.UINT2
    assert kinds == {native.get(bits, TensorProto.UINT8)}
    check(cases, opset)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_weight_that_is_one_row_is_stored_in_blocks_of_that_row(grid: Granularity, bits: int) -> None:
    layout, shape = LAYOUTS["whole"]
    q = quantized(shape, layout, bits, grid)
    encoded = encode_native(q, "w", 21, True, names())
    if encoded is not None:
        check({"w": (q, encoded)}, 21)
    assert encoded is not None or grid.per == "block"


@pytest.mark.parametrize(("bits", "opset"), [(4, 21), (2, 25)])
@pytest.mark.parametrize("shape", [(1, 1), (13, 5), (24, 7), (3, 1)])
def test_small_integers_are_stored_as_onnx_reads_them(bits: int, opset: int, shape: tuple[int, int]) -> None:
    q = quantized(shape, WeightAxes(r=1, q=1), bits, Granularity(per="channel"))
    encoded = encode_native(q, "w", opset, True, names())
    assert encoded is not None
    codes = next(tensor for tensor in encoded.tensors if tensor.name == "w.codes")
    assert len(codes.raw_data) == -(-q.codes.size * bits // 8)
    np.testing.assert_array_equal(numpy_helper.to_array(codes).astype(np.uint8), q.codes)
