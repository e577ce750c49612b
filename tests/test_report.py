"""The text of sections, from data as the summary holds it."""

from __future__ import annotations

import math
from io import StringIO

import pytest
from rich.console import Console

from mixquant_onnx.report.formats import decibels, finite, short, size
from mixquant_onnx.report.sections import blocks, files, weights
from mixquant_onnx.report.sections.weights import TensorData


def tensor(name: str, sqnr: float | str, qe: float) -> TensorData:
    return {
        "name": name, "shape": [8, 4], "dtype": "float32", "ops": ["MatMul"], "nodes": ["m"], "outputs": [],
        "scheme": "w4.channel", "bits": 4, "nbytes": 16, "qe": qe, "baseline_qe": 1e-3, "sqnr_db": sqnr,
        "qe_by_bits": {"4": qe},
    }  # fmt: skip


def shown(*tensors: TensorData) -> str:
    text = StringIO()
    data: weights.Weights = {"weights": 32, "average_bits": 4.5, "bits": {"4": len(tensors)}, "tensors": list(tensors)}
    weights.render(Console(file=text, width=100), data)
    return text.getvalue()


def test_weights_are_shown_worst_first_with_errors_of_any_size() -> None:
    text = shown(
        tensor("fine", "inf", 0), tensor("mid", 30.0, 2e-3), tensor("bad", 1.0, 123.4), tensor("lost", "-inf", 1)
    )
    assert [line.split()[0] for line in text.splitlines() if "8x4" in line] == ["lost", "bad", "mid", "fine"]
    assert "123400" in text and "2.00" in text and "exact" in text and "no signal" in text and "…" not in text


def test_more_weights_than_fit_are_counted() -> None:
    assert "… and 3 more tensors (all of them in --json FILE)" in shown(*[tensor("w", 1.0, 1e-3)] * 15)
    assert "more tensors" not in shown(*[tensor("w", 1.0, 1e-3)] * 12)


def test_names_with_brackets_are_printed_as_they_are() -> None:
    text = StringIO()
    files.render(Console(file=text, width=100), {"files": ["a[red].onnx", "b.onnx.data"]})
    assert text.getvalue() == "wrote a[red].onnx, b.onnx.data\n"
    files.render(Console(file=text, width=100), {"files": []})
    block: blocks.BlockData = {
        "exit": None,
        "inputs": [],
        "weights": ["w[0]"],
        "operators": ["A", "B"],
        "unknown": ["B"],
    }
    blocks.render(Console(file=text, width=100), {"blocks": [block]})
    assert "w[0]" in text.getvalue() and "A B*" in text.getvalue() and "(in no block)" in text.getvalue()
    assert text.getvalue().count("wrote") == 1


@pytest.mark.parametrize(
    ("value", "plain", "text"),
    [(math.inf, "inf", "exact"), (-math.inf, "-inf", "no signal"), (math.nan, None, "-"), (12.34, 12.34, "12.3 dB")],
)
def test_json_has_no_infinities_and_no_nan(value: float, plain: float | str | None, text: str) -> None:
    assert finite(value) == plain and decibels(finite(value)) == text


def test_sizes_and_long_names() -> None:
    assert (size(99_999), size(100_000)) == ("100.0 kB", "0.10 MB")
    assert short("x" * 36) == "x" * 36 and short("layer." * 10 + "weight") == "…" + ("layer." * 10 + "weight")[-35:]
