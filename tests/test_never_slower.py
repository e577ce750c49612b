"""No weight is dequantized at every run: ONNX Runtime folds it or fuses it with its MatMul."""

from __future__ import annotations

import pytest
from cases import text, weight

import mixquant_onnx as mq
from mixquant_onnx.runtime import dequantized_at_every_run

SIZE = 512
SQUARE = f"float[{SIZE},{SIZE}]"


def _model(body: str, rows: str = "16", extra: str = "") -> mq.RunResult:
    model = text(
        f"g (float[{rows},{SIZE}] x, {SQUARE} w{extra}) => (float[{rows},{SIZE}] y) {{ {body} }}",
        w=weight(SIZE, SIZE),
    )
    return mq.quantize(model, bits=[8], fused="always")


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
    assert set(_model("h = MatMul (x, w) y = Add (h, x)").rewritten.forms.values()) == {"folded"}
