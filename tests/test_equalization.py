"""Channels of activations brought to like ranges: outputs stay, and rounding costs less."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Array, decibels, ops, run, text, weight
from onnx import ModelProto, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.export.equalize import equalized
from mixquant_onnx.model.weights import find
from mixquant_onnx.planning import rounding_candidates
from mixquant_onnx.quantization.activations import placement
from mixquant_onnx.quantization.activations.equalization import Equalizable, all_factors, equalizable, factors_of
from mixquant_onnx.quantization.activations.placement import place

OUTLIERS = np.where(np.arange(64) % 16 == 3, 40.0, 1.0).astype(np.float32)


@pytest.fixture(autouse=True)
def products_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones too, so that tests are quick."""
    monkeypatch.setattr(placement, "_LARGE_PRODUCT", 1)


def rows(count: int = 64) -> Array:
    return np.random.default_rng(5).standard_normal((count, 64)).astype(np.float32)


BODIES = {
    "a value that another node reads": "h = Mul (x, k) o = MatMul (h, w) y = Add (o, h)",
    "normalization": "h = LayerNormalization (x, k, b) y = MatMul (h, w)",
    "normalization that is read elsewhere": "h = LayerNormalization (x, k, b) o = MatMul (h, w) y = Add (o, h)",
    "Relu": "p = Mul (x, k) h = Relu (p) y = MatMul (h, w)",
    "two products": "h = Mul (x, k) o = MatMul (h, w) q = Gemm <transB=1> (h, v, b) y = Add (o, q)",
    "an output": "y = Mul (x, k) z = MatMul (y, w)",
}


def network(body: str) -> ModelProto:
    outputs = "float[N,64] y, float[N,64] z" if "z =" in body else "float[N,64] y"
    model = text(
        f"g (float[N,64] x, float[64,64] w, float[64,64] v, float[64] k, float[64] b) => ({outputs}) {{ {body} }}",
        w=weight(64, 64), v=weight(64, 64, seed=1), k=OUTLIERS, b=weight(64),
    )  # fmt: skip
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("name", BODIES)
def test_outputs_stay_and_channels_are_alike(name: str) -> None:
    model = network(BODIES[name])
    sites = find(model, 256).sites
    places = equalizable(model, sites, place(model, sites))
    (where,) = places
    assert set(where.weights) == ({"w", "v"} if name == "two products" else {"w"})
    (made,) = all_factors(places, {where.value: OUTLIERS}, sites, 0.75)
    assert np.log(made.factors).mean() == pytest.approx(0, abs=1e-5)
    other = equalized(model, sites, [made])
    for wanted, got in zip(run(model, {"x": rows()}), run(other, {"x": rows()}), strict=True):
        assert decibels(wanted, got) > 110
    assert ops(other).count("Mul") - ops(model).count("Mul") == (0 if name == "normalization" else 1)
    placed = {value.name for value in place(other, find(other, 256).sites).values}
    assert len(placed) == 1 and placed <= {"h", f"{where.value}.balanced"}


def test_channels_that_hardly_occur_and_shapes_that_do_not_fit() -> None:
    sites = find(network(BODIES["Relu"]), 256).sites
    where = Equalizable(value="h", weights={"w": 0})
    peaks = np.ones(64, np.float32)
    peaks[5] = 0
    made = factors_of(where, peaks, sites, 0.75)
    assert made is not None and made.factors.min() > 0 and np.isfinite(made.factors).all()
    assert made.factors.max() / made.factors.min() < 1e4
    assert factors_of(where, np.zeros(64, np.float32), sites, 0.75) is None
    assert factors_of(where, np.ones(63, np.float32), sites, 0.75) is None
    assert factors_of(where, np.full(64, np.inf, np.float32), sites, 0.75) is None


def test_outliers_in_channels_cost_less_where_they_are_equalized(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(BODIES["normalization"])
    small = numpy_helper.from_array(weight(64, 64) / OUTLIERS[:, None], "w")
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").CopyFrom(small)
    chosen = mq.quantize(model, activations=8, data={"x": rows()}, bits=[7], guard=False)
    assert chosen.plan.settings["balance"] > 0
    monkeypatch.setattr(rounding_candidates, "STRENGTHS", ())
    plain = mq.quantize(model, activations=8, data={"x": rows()}, bits=[7], guard=False)
    assert plain.plan.settings["balance"] == 0
    feed = {"x": rows(96)[64:]}
    wanted = run(model, feed)[0]
    gain = decibels(wanted, run(chosen.model, feed)[0]) - decibels(wanted, run(plain.model, feed)[0])
    assert gain > 3
