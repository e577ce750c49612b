"""Products on integers, over the range that their input has in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, Fails, decibels, optimized, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main


def network() -> ModelProto:
    """A convolution, two products that read one value, a Gemm, and a small product."""
    return text(
        """g (float[N,1,300] x, float[1,1,3] k, float[300,256] w, float[300,256] v, float[256,260] q, float[260] b,
        float[260,9] s) => (float[N,9] y) { c = Conv <pads=[1,1]> (x, k) f = Flatten (c) a = MatMul (f, w)
        d = MatMul (f, v) m = Add (a, d) t = Tanh (m) g = Gemm (t, q, b) e = Tanh (g) y = MatMul (e, s) }""",
        k=weight(1, 1, 3) + 1, w=0.2 * weight(300, 256), v=0.2 * weight(300, 256, seed=1),
        q=0.3 * weight(256, 260), b=weight(260), s=weight(260, 9),
    )  # fmt: skip


def rows(count: int, seed: int = 7) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 1, 300)).astype(np.float32)


@pytest.mark.parametrize("data", [None, "given"])
def test_products_run_on_integers_without_data_too(data: str | None, tmp_path: Path) -> None:
    model = network()
    given: dict[str, Any] = {"data_free": True} if data is None else {"data": {"x": rows(64)}}
    result = mq.quantize(model, activations="dynamic", bits=[7], **given)
    found = optimized(result.model, tmp_path)
    assert found.count("DynamicQuantizeMatMul") + found.count("MatMulIntegerToFloat") == 3
    assert found.count("Conv") == 1 and found.count("MatMul") + found.count("Gemm") == 1
    assert result.rewritten.forms["w"] == result.rewritten.forms["q"] == "int8" != result.rewritten.forms["s"]
    for count in (1, 5):
        feed = {"x": rows(count, seed=8)}
        assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 25
    assert result.verification is not None and not result.verification.overflowing
    assert result.verification.reference_sqnr_db is not None and result.verification.reference_sqnr_db > 70
    assert result.plan.settings["activation_ranges"] == "dynamic"


def test_rows_of_zeros_give_what_float_gives() -> None:
    model = network()
    result = mq.quantize(model, activations="dynamic", data_free=True, bits=[7])
    feed = {"x": np.zeros((2, 1, 300), np.float32)}
    np.testing.assert_allclose(run(result.model, feed)[0], run(model, feed)[0], atol=0.05)


def test_the_range_is_that_of_each_run() -> None:
    model = network()
    result = mq.quantize(model, activations="dynamic", data_free=True, bits=[7], method="mse")
    for scale in (0.01, 1.0, 100.0):
        feed = {"x": scale * rows(4, seed=9)}
        assert decibels(run(model, feed)[0], run(result.model, feed)[0]) > 15


def test_the_summary_says_so_and_a_second_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    model, output = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(network(), model)
    given = ["--activations", "dynamic", "--data-free"]
    assert main([str(model), str(output), *given]) == 0
    assert "on 8-bit integers: 3 of 4 weights, ranges of each run" in " ".join(capsys.readouterr().out.split())
    assert "on integers already" in fails(2, output, tmp_path / "p.onnx", *given)
