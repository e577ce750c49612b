"""--fused packed (--for memory): kernels that read codes, which a session holds in place of floats."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, decibels, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.export import packed_operators
from mixquant_onnx.export.encodings import packed_kernel
from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.verification.memory import memory

GRIDS = ["channel", "tensor", "block:32", "block:128"]


def decoder(columns: int = 520) -> ModelProto:
    """A table, a product, a Gemm with transB, and a product that is too small for a kernel."""
    return text(
        f"""g (int64[N,S] ids, float[600,{columns}] table, float[{columns},1100] up, float[768,1100] down,
            float[768] bias, float[768,9] head) => (float[M,9] y)
        {{ e = Gather (table, ids) u = MatMul (e, up) r = Relu (u) shape = Constant <value = int64[2] {{-1, 1100}}> ()
          f = Reshape (r, shape) d = Gemm <transB=1> (f, down, bias) y = MatMul (d, head) }}""",
        table=weight(600, columns), up=weight(columns, 1100, seed=1), down=weight(768, 1100, seed=2),
        bias=weight(768, seed=3), head=weight(768, 9, seed=4), opset=21,
    )  # fmt: skip


def quantized(model: ModelProto, **options: Any) -> Any:
    return mq.quantize(model, **{"fused": "packed", "data_free": True, "rule": "paper", "method": "minmax", **options})


def ids() -> dict[str, Array]:
    return {"ids": np.array([[0, 5, 599], [-1, 17, -600]])}


@pytest.mark.parametrize("granularity", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_kernels_read_the_codes(bits: int, granularity: str) -> None:
    model = decoder()
    result = quantized(model, bits=bits, granularity=granularity)
    kinds = Counter(node.op_type for node in result.model.graph.node)
    assert kinds["MatMulNBits"] == 2 and kinds["GatherBlockQuantized"] == 1 and not {"Packed", "Gemm"} & set(kinds)
    folded = mq.quantize(
        model, fused="never", data_free=True, rule="paper", method="minmax", bits=bits, granularity=granularity
    )
    assert result.plan.sites == folded.plan.sites
    assert decibels(run(folded.model, ids())[0], run(result.model, ids())[0]) > 30
    wide = 8 if bits > 4 else 4
    assert set(result.rewritten.forms.values()) == {f"MatMulNBits {wide}", f"GatherBlockQuantized {wide}",
                                                    "folded"}  # fmt: skip


@pytest.mark.parametrize("columns", [401, 48])
def test_rows_of_an_odd_length_and_short_ones(columns: int) -> None:
    result = quantized(decoder(columns), bits=4)
    table = next(node for node in result.model.graph.node if node.op_type == "GatherBlockQuantized")
    assert {a.name: a.i for a in table.attribute}["bits"] == (8 if columns % 2 else 4)
    assert result.verification is not None


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_budget_takes_the_widths_of_the_kernels(symmetric: bool) -> None:
    result = quantized(decoder(), avg_bits=6, symmetric=symmetric, rule="safe", method="mse")
    held = {name: scheme.bits for name, scheme in result.plan.sites.items() if name != "head"}
    assert set(held.values()) == {4, 8} and result.average_bits <= 6


@pytest.mark.parametrize(
    "options", [{"fused": "always"}, {"fused": "packed", "target": "qdq"}, {"fused": "packed"}], ids=str
)
def test_only_codes_that_are_held_are_kept_to_the_widths_of_the_kernels(options: dict[str, Any]) -> None:
    table = mq.inspect(decoder(512), data_free=True, method="minmax", **options).table
    held = {name: {c.scheme.bits for c in row.candidates} for name, row in table.items()}
    narrow = {4, 8} if options == {"fused": "packed"} else set(range(2, 9))
    assert held == {"table": narrow, "up": narrow, "down": narrow, "head": set(range(2, 9))}


@pytest.mark.parametrize("part", ["codes", "zeros", "scales"])
def test_the_proof_notices_a_kernel_that_reads_something_else(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if part == "codes":
        plain = packed_kernel.packed_rows
        monkeypatch.setattr(packed_kernel, "packed_rows", lambda codes, bits: plain(codes[:, ::-1], bits))
    elif part == "zeros":
        monkeypatch.setattr(packed_kernel, "_zeros", lambda builder, zero, shape, bits: builder.store(
            "zero_point", np.zeros((shape[0], -(-shape[1] * bits // 8)), np.uint8)))  # fmt: skip
    else:
        monkeypatch.setattr(packed_operators, "_ACCURACY", 4)
        monkeypatch.setattr(packed_kernel, "_scales", lambda builder, scale, shape: builder.store(
            "scale", np.ones(shape, np.float32)))  # fmt: skip
    with pytest.raises(mq.ProofError, match="verification failed"):
        quantized(decoder(), bits=4)


def test_the_proof_compares_the_kernel_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoded codes are right, and the node tells the kernel another block."""
    plain = packed_operators._be_table

    def wrong(node: onnx.NodeProto, packed: onnx.NodeProto, fresh: FreshName) -> list[onnx.NodeProto]:
        made = plain(node, packed, fresh)
        node.input[2], node.input[3] = node.input[2], ""
        return made

    monkeypatch.setattr(packed_operators, "_be_table", wrong)
    stored, decoded = packed_operators.stored, packed_operators.decoded_rows
    monkeypatch.setattr(packed_operators, "stored", lambda n, c: stored(n, c) if n.op_type == "MatMulNBits" else None)
    monkeypatch.setattr(
        packed_operators, "decoded_rows", lambda n, given: decoded(n, given) if given else weight(600, 520)
    )
    with pytest.raises(mq.ProofError):
        quantized(decoder(), bits=4)


HEADS = {
    "MatMul": "t = Transpose <perm=[1, 0]> (table) y = MatMul (h, t)",
    "Gemm": "y = Gemm <transB=1> (h, table, bias)",
}


def tied(head: str, columns: int, rows: int = 600) -> ModelProto:
    """A table of which rows are taken, and which a product reads too."""
    bias: dict[str, Any] = {"bias": weight(rows, seed=1)} if head == "Gemm" else {}
    return text(
        f"""g (int64[N] ids, float[{rows},{columns}] table{f", float[{rows}] bias" if bias else ""})
            => (float[N,{columns}] e, float[N,{rows}] y)
        {{ e = Gather (table, ids) h = Tanh (e) {HEADS[head]} }}""", table=weight(rows, columns), **bias,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "granularity"), [(256, "channel"), (128, "block:16"), (256, "block:128"), (128, "block:128")]
)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bits", [3, 8])
def test_a_tied_embedding_and_head_share_their_codes(bits: int, head: str, columns: int, granularity: str) -> None:
    model, feed = tied(head, columns), {"ids": np.array([0, 5, 599, -1, 17])}
    result = quantized(model, bits=bits, granularity=granularity)
    wide = 8 if bits > 4 else 4
    assert result.rewritten.forms == {"table": f"GatherBlockQuantized, MatMulNBits {wide}"}
    kinds = Counter(node.op_type for node in result.model.graph.node)
    assert kinds["MatMulNBits"] == kinds["GatherBlockQuantized"] == 1 and not {"Gather", "MatMul", "Gemm"} & set(kinds)
    grids = 600 * columns // int(granularity.removeprefix("block:")) if "block" in granularity else 600
    assert result.nbytes_after < wide / 8 * 600 * columns + 3 * grids + 5000
    folded = mq.quantize(model, fused="never", data_free=True, rule="paper", method="minmax", bits=bits,
                         granularity=granularity)  # fmt: skip
    assert folded.plan.sites == result.plan.sites
    (e, y), (rows, products) = run(folded.model, feed), run(result.model, feed)
    np.testing.assert_array_equal(rows, e)
    assert decibels(y, products) > 30
    assert run(result.model, {"ids": np.zeros(0, np.int64)})[0].shape == (0, columns)


def test_rows_of_a_tied_table_are_taken_in_any_shape() -> None:
    model = text(
        """g (int64[A,B,C] ids, float[N,128] x, float[600,128] table) => (float[A,B,C,128] e, float[N,600] y)
        { e = Gather (table, ids) t = Transpose <perm=[1, 0]> (table) y = MatMul (x, t) }""", table=weight(600, 128),
    )  # fmt: skip
    result = quantized(model, bits=4)
    feed = {"ids": np.arange(24).reshape(2, 3, 4), "x": weight(2, 128)}
    assert run(result.model, feed)[0].shape == (2, 3, 4, 128)
    assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 15


def test_a_tied_table_whose_rows_do_not_end_with_a_block_is_folded() -> None:
    for model, options in (
        (tied("MatMul", 72), {}), (tied("MatMul", 96), {"granularity": "block:32"}),
        (tied("MatMul", 256), {"granularity": "tensor"}),
    ):  # fmt: skip
        assert set(quantized(model, bits=4, **options).rewritten.forms.values()) == {"folded"}


def test_kernels_that_a_model_has_stay_as_they_are() -> None:
    first = quantized(decoder(), bits=4).model
    first.graph.initializer.append(onnx.numpy_helper.from_array(weight(9, 700, seed=9), "more"))
    first.graph.node.append(onnx.helper.make_node("MatMul", ["y", "more"], ["z"]))
    first.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["M", 700]))
    second = quantized(first, bits=4, allow_unchanged=True)
    kept = [node for node in second.model.graph.node if node.op_type == "MatMulNBits"]
    assert len(kept) == 2 and kept == [node for node in first.graph.node if node.op_type == "MatMulNBits"]


def test_for_memory_stands_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(decoder(), tmp_path / "in.onnx")
    given = [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--bits", "4", "--data-free", "--rule", "paper"]
    assert main([*given, "--for", "memory"]) == 0
    assert "onnxruntime: loads from 1.25" in capsys.readouterr().out
    assert {"MatMulNBits", "GatherBlockQuantized"} <= {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}
    assert main([*given, "--fused", "packed", "--exact"]) == 2


def test_an_older_runtime_gets_folded_weights() -> None:
    assert set(quantized(decoder(), bits=4, min_ort="1.20").rewritten.forms.values()) == {"folded"}


@pytest.mark.slow
def test_a_session_holds_little_more_than_the_file(tmp_path: Path) -> None:
    """Whole pages are counted, and what the runtime itself takes: less than 12 MB here."""
    names = [f"w{place}" for place in range(6)]
    declared = ", ".join(f"float[1536,1536] {name}" for name in names)
    steps = " ".join(f"h{place + 1} = MatMul (h{place}, {name})" for place, name in enumerate(names))
    stored: dict[str, Any] = {name: weight(1536, 1536, seed=place) / 40 for place, name in enumerate(names)}
    model = text(
        f"g (float[N,1536] h0, {declared}) => (float[N,1536] h6) {{ {steps} }}",
        opset=21, **stored,
    )  # fmt: skip
    onnx.save(model, tmp_path / "in.onnx")
    result = mq.quantize(tmp_path / "in.onnx", tmp_path / "out.onnx", optimize_for="memory", bits=4, data_free=True,
                         rule="paper", method="minmax")  # fmt: skip
    assert [file.name for file in result.files] == ["out.onnx", "out.onnx.data"]
    feed = {"h0": weight(1, 1536)}
    before, after = (memory(tmp_path / name, feed) for name in ("in.onnx", "out.onnx"))
    assert before is not None and after is not None
    assert after.held < 1.15 * result.nbytes_after + 12e6 and after.peak < 1.5 * result.nbytes_after + 12e6
    assert after.held < 0.4 * before.held


def test_the_summary_tells_what_a_session_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model = text(
        """g (int64[N] ids, float[600,256] table, float[256,1024] up, float[32,64,3,3] kernel, float[N,64,5,5] picture)
          => (float[N,1024] y, float[N,32,5,5] z)
        { e = Gather (table, ids) y = MatMul (e, up) z = Conv <pads=[1,1,1,1]> (picture, kernel) }""",
        table=weight(600, 256), up=weight(256, 1024, seed=1), kernel=weight(32, 64, 3, 3, seed=2), opset=21,
    )  # fmt: skip
    onnx.save(model, tmp_path / "in.onnx")
    told = tmp_path / "told.json"
    given = [
        str(tmp_path / "in.onnx"),
        str(tmp_path / "out.onnx"),
        "--for",
        "memory",
        "--bits",
        "8",
        "--json",
        str(told),
    ]
    assert main([*given, "--quiet"]) == 0
    found = json.loads(told.read_text())["weights_in_memory"]
    kernel = 4 * 32 * 64 * 9
    assert found["float"] == 4 * (600 * 256 + 256 * 1024) + kernel
    assert found["unpacked"] == kernel and found["operators"] == {"Conv": 1}
    table, product = 600 * 256 + 600 * (4 + 1), 256 * 1024 + 1024 * (4 + 1)
    assert found["held"] == table + product + kernel
    capsys.readouterr()
    assert main(given) == 0
    printed, share = capsys.readouterr().out, f"{found['held'] / found['float']:.0%}"
    assert f"{share} of float's; " in printed
    assert "unpacked to float, as no kernel reads codes there (1 of Conv)" in printed
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "o.onnx"), "--json", str(told), "--quiet"]) == 0
    assert "weights_in_memory" not in json.loads(told.read_text())
