"""The SQNR that a run tells, on rows spared of few, is that on rows never seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, decibels, run, text
from conftest import ROOT
from onnx import ModelProto

import mixquant_onnx as mq

DRAWS = 4


def told_and_true(model: ModelProto, name: str, rows: Array, fresh: Array, **options: Any) -> tuple[float, float]:
    result = mq.quantize(model, data={name: rows}, **options)
    proved = result.verification
    assert proved is not None and proved.deployed is not None and not proved.in_sample
    assert proved.deployed.sqnr_db is not None
    return proved.deployed.sqnr_db, decibels(run(model, {name: fresh})[0], run(result.model, {name: fresh})[0])


def mlp(random: np.random.Generator) -> ModelProto:
    shapes = ((32, 64), (64, 64), (64, 10))
    weights = {f"w{k}": (random.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for k, s in enumerate(shapes)}
    return text(
        """g (float[n,32] x, float[32,64] w0, float[64,64] w1, float[64,10] w2) => (float[other,10] y)
        { a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Relu (c) y = MatMul (d, w2) }""", **weights,
    )  # fmt: skip


def check(found: list[tuple[float, float]]) -> None:
    """Within 1.5 dB in the mean, which rows fitted to are not (test_data_split.py)."""
    difference = np.array([told - true for told, true in found])
    assert abs(difference.mean()) < 1.5, found


@pytest.mark.parametrize("count", [32, 64, 256])
def test_what_is_told_of_a_small_net_is_true(count: int) -> None:
    random = np.random.default_rng(count)
    found = []
    for _ in range(2 * DRAWS):
        rows, fresh = (random.standard_normal((n, 32)).astype(np.float32) for n in (count, 1000))
        found.append(told_and_true(mlp(random), "x", rows, fresh, bits=3))
    check(found)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "counts"), [({"bits": 3}, (32, 64, 256)), ({"avg_bits": 3.0}, (64,))], ids=str)
def test_what_is_told_of_trained_nets_is_true(options: dict[str, Any], counts: tuple[int, ...]) -> None:
    everything = []
    for count in counts:
        found = []
        for name in ("digits_cnn", "digits_transformer"):
            path = ROOT / "models" / name / "model.onnx"
            with np.load(path.with_name("eval.npz")) as stored:
                rows = stored["input"]
            for draw in range(DRAWS if "bits" in options else 2):
                order = np.random.default_rng(draw).permutation(len(rows))
                chosen, fresh = rows[order[:count]], rows[order[256:1256]]
                found.append(told_and_true(onnx.load(path), "input", chosen, fresh, **options))
        check(found)
        everything += found
    assert len(counts) == 1 or abs(np.mean([told - true for told, true in everything])) < 0.75
