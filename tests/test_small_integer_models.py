"""Models so small that names and functions take as much as their weights: they run on integers all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import decibels, optimized, run, text, weight
from onnx import ModelProto, TensorProto

import mixquant_onnx as mq


def small(channels: int = 8) -> ModelProto:
    return text(
        f"""g (float[N,{channels},8,8] x, float[{channels},{channels},3,3] w, float[{channels},{channels},3,3] v)
        => (float[N,{channels},4,4] y) {{ a = Conv (x, w) r = Relu (a) y = Conv (r, v) }}""",
        w=weight(channels, channels, 3, 3), v=weight(channels, channels, 3, 3, seed=1),
    )  # fmt: skip


def integer(model: ModelProto, **options: Any) -> mq.RunResult:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    data = np.random.default_rng(4).standard_normal((48, channels, 8, 8)).astype(np.float32)
    return mq.quantize(model, activations=8, data={"x": data}, **options)


@pytest.mark.parametrize("bits", [3, 7])
def test_codes_of_small_weights_are_stored_as_int8(bits: int, tmp_path: Path) -> None:
    model = small()
    made = integer(model, bits=[bits])
    stored = {tensor.name: tensor.data_type for tensor in made.model.graph.initializer}
    assert [stored[f"{name}.codes"] for name in ("w", "v")] == [TensorProto.INT8] * 2
    assert not made.model.functions and made.nbytes_after < made.nbytes_before
    assert optimized(made.model, tmp_path).count("QLinearConv") == 2
    feed = {"x": np.random.default_rng(9).standard_normal((4, 8, 8, 8)).astype(np.float32)}
    assert decibels(run(model, feed)[0], run(made.model, feed)[0]) > (8 if bits == 3 else 30)


def test_large_weights_are_stored_as_bit_planes() -> None:
    made = integer(small(60), bits=[7])
    assert made.model.functions and set(made.rewritten.forms.values()) == {"int8"}


def test_a_file_may_grow_where_integers_are_asked_for_and_says_so(tmp_path: Path) -> None:
    model = small(2)
    made = integer(model, min_size=16, bits=[7])
    onnx.save(model, tmp_path / "m.onnx")
    assert made.nbytes_after > made.nbytes_before == (tmp_path / "m.onnx").stat().st_size
    assert any("larger than float's" in note for note in made.notes)
