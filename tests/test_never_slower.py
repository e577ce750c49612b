"""No weight is dequantized at every run: ONNX Runtime folds it or fuses it with its MatMul."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from cases import Fails, text, weight

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.runtime.session import dequantized_at_every_run

SIZE = 512
SQUARE = f"float[{SIZE},{SIZE}]"


def _model(body: str, rows: str = "16", extra: str = "", bits: int = 8) -> mq.RunResult:
    model = text(
        f"g (float[{rows},{SIZE}] x, {SQUARE} w{extra}) => (float[{rows},{SIZE}] y) {{ {body} }}",
        w=weight(SIZE, SIZE),
    )
    return mq.quantize(model, bits=[bits], fused="always")


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        ("y = MatMul (x, w)", ""),
        ("h = MatMul (x, w) y = MatMul (h, w)", ""),
        ("h = MatMul (x, w) y = Add (h, x)", ""),
        ("y = Gemm (x, w, x)", ""),
        ("y = Gemm <transB=1> (x, w, x)", ""),
        ("y = Gemm (x, w, b)", f", float[1,{SIZE}] b"),
        ("h = MatMul (x, w) y = Add (h, b)", f", float[{SIZE}] b"),
    ],
)
@pytest.mark.parametrize("rows", ["16", "N"])
def test_nothing_is_dequantized_at_every_run(body: str, extra: str, rows: str) -> None:
    result = _model(body, rows, extra)
    assert dequantized_at_every_run(result.model) == set()


def test_the_check_sees_a_weight_that_is_dequantized_at_every_run() -> None:
    model = text("g (float[1,16,9,9] x, float[16,16,3,3] w) => (float[1,16,7,7] y) { y = Conv (x, w) }",
                 w=weight(16, 16, 3, 3))  # fmt: skip
    assert dequantized_at_every_run(mq.quantize(model, bits=[8], target="qdq").model) == {"w"}
    assert dequantized_at_every_run(mq.quantize(model, bits=[8]).model) == set()


def test_a_large_weight_of_one_plain_matmul_is_fused() -> None:
    assert set(_model("y = MatMul (x, w)").rewritten.forms.values()) == {"MatMulNBits 8"}
    assert set(_model("h = MatMul (x, w) y = Add (h, x)").rewritten.forms.values()) == {"MatMulNBits 8"}


def test_codes_that_are_unpacked_are_folded_where_the_runtime_does_not_fuse_them() -> None:
    """MatMul and Add of a matrix become Gemm before DequantizeLinear is looked at."""
    assert set(_model("h = MatMul (x, w) y = Add (h, x)", bits=7).rewritten.forms.values()) == {"folded"}
    assert set(_model("y = MatMul (x, w)", bits=7).rewritten.forms.values()) == {"MatMulNBits 8"}


ONE_ROW = {
    "one row": ("float[1,512] x", "y = MatMul (x, w)", True),
    "one row, Gemm": ("float[1,512] x", "y = Gemm <transB=1> (x, w)", True),
    "one token": ("float[1,1,512] x", "y = MatMul (x, w)", True),
    "found by shape inference": ("float[1,512,3,3] x", "p = GlobalAveragePool (x) f = Flatten (p) y = MatMul (f, w)",
        True),
    "several rows": ("float[16,512] x", "y = MatMul (x, w)", False),
    "several tokens": ("float[1,7,512] x", "y = MatMul (x, w)", False),
    "a free batch": ("float[N,512] x", "y = MatMul (x, w)", False),
    "a free length": ("float[1,N,512] x", "y = MatMul (x, w)", False),
    "a shape that is not known": ("float[1,512] x, bool[1] c", "k = Compress <axis=0> (x, c) y = MatMul (k, w)", False),
    "one row and several": ("float[1,512] x, float[9,512] z", "y = MatMul (x, w) u = MatMul (z, w)", False),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_ROW)
def test_by_default_a_product_is_fused_where_the_model_tells_of_one_row(case: str) -> None:
    inputs, body, fused = ONE_ROW[case]
    outputs = "float y" + (", float u" if "u =" in body else "")
    model = text(f"g ({inputs}, {SQUARE} w) => ({outputs}) {{ {body} }}", w=weight(SIZE, SIZE))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    forms, unpacked = (
        {o: mq.quantize(model, bits=[bits], **option_of(o)).rewritten.forms["w"] for o in OPTIONS} for bits in (8, 7)
    )
    assert forms["auto"] == ("MatMulNBits 8" if fused else "folded")
    assert forms["always"] == "MatMulNBits 8" and forms["never"] == forms["exact"] == "folded"
    assert unpacked == {**forms, "always": "folded" if case == "one row and several" else "MatMulNBits 8"}


OPTIONS = ("auto", "always", "never", "exact")


def option_of(name: str) -> dict[str, Any]:
    return {"exact": True} if name == "exact" else {"fused": name}


def test_exact_and_always_fused_exclude_each_other(model: Path, output: Path, fails: Fails) -> None:
    assert "--fused always" in fails(2, model, output, "--exact", "--fused", "always")
    with pytest.raises(mq.OptionError, match="use auto, always, packed or never"):
        mq.quantize(model, fused="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fused", "rows", "words"), [("always", "16", "VNNI"), ("auto", "1", "1.25"), ("auto", "16", "1.21")]
)
def test_the_summary_says_where_the_claim_holds(
    fused: str, rows: str, words: str, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(text(f"g (float[{rows},{SIZE}] x, {SQUARE} w) => (float[{rows},{SIZE}] y) {{ y = MatMul (x, w) }}",
                   w=weight(SIZE, SIZE)), source)  # fmt: skip
    assert main([str(source), str(output), "--bits", "5", "--fused", fused]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "not slower than float from" in line]
    assert words in line and ("VNNI" in line) == (fused == "always")
