"""The proof of graphs that round their own activations (QuantizeLinear between the layers)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cases import Array, feed_for, text, weight
from onnx import ModelProto, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.data.noise import Data
from mixquant_onnx.errors import ProofError
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.equivalence import check_equivalence

WEIGHTS: Mapping[str, Array] = {
    "v": weight(8, 8, 3, 3),
    "c": np.random.default_rng(0).integers(-127, 128, (8, 8, 3, 3)).astype(np.int8),
    "s": np.array(0.03, np.float32), "t": np.array(0.002, np.float32),
    "z": np.array(128, np.uint8), "o": np.array(0, np.int8),
}  # fmt: skip


def quantized_before(**changed: Any) -> ModelProto:
    """Q / DQ around two convolutions; the weight `v` of the second is float, that of the first has 8 bits."""
    return text(
        """g (float[8,8,9,9] x, float[8,8,3,3] v, int8[8,8,3,3] c, float s, float t, uint8 z, int8 o)
        => (float[8,8,5,5] y) {
        a = QuantizeLinear (x, s, z) b = DequantizeLinear (a, s, z) w = DequantizeLinear (c, t, o) d = Conv (b, w)
        e = QuantizeLinear (d, s, z) f = DequantizeLinear (e, s, z) m = Conv (f, v)
        q = QuantizeLinear (m, s, z) y = DequantizeLinear (q, s, z) }""",
        **{**WEIGHTS, **changed},
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_a_graph_with_quantized_activations_is_proved(target: str, symmetric: bool) -> None:
    """ONNX Runtime rounds the reference's float weight to 8 bits by itself, and not the 8-bit weight of the file."""
    result = mq.quantize(quantized_before(), target=target, symmetric=symmetric, bits=[8])
    assert list(result.plan.sites) == ["v"]
    assert result.verification is not None and result.verification.reference_sqnr_db is not None
    assert result.verification.reference_sqnr_db > 70
    assert result.verification.deployed is not None and (result.verification.deployed.sqnr_db or 0) > 30


def checked(reference: ModelProto, saved: ModelProto, ran: ModelProto) -> float | None:
    """`check_equivalence` where ONNX Runtime computes `ran` under the options that are to be explained."""
    data = Data(feeds=(feed_for(reference),), labels=None, origin="noise")
    return check_equivalence(saved, reference, Session(ran, "exact"), data, {"float32"})


@pytest.mark.parametrize("shift", [0.02, 0.001])
def test_another_weight_between_roundings_is_not_excused(shift: float) -> None:
    """Also where the difference is less than a step."""
    right = quantized_before()
    values = WEIGHTS["v"].copy()
    values[3] += shift
    wrong = quantized_before(v=values)
    with pytest.raises(ProofError, match=r"first different at 'm' \(Conv\)"):
        checked(right, wrong, wrong)


def test_a_kernel_that_computes_something_else_is_not_excused() -> None:
    """The file as it is written is right, and what its optimized form computes is not within its own steps."""
    right = quantized_before()
    with pytest.raises(ProofError):
        checked(right, right, quantized_before(v=WEIGHTS["v"][::-1].copy()))


def test_a_step_more_or_less_is_excused() -> None:
    """What ONNX Runtime makes of the float weight by itself is nearly what it makes of the same weight in 8 bits."""
    right = quantized_before()
    eight = mq.quantize(right, target="qdq", bits=[8], symmetric=True, verify=False).model
    values = Session(with_output(eight, "v")).run(feed_for(right), ["v"])[0]
    put_weight(right, values)
    ratio = checked(right, eight, eight)
    assert ratio is not None and ratio > 70
    reference, got = (Session(model, "exact").run(feed_for(right))[0] for model in (right, eight))
    assert not np.array_equal(reference, got)


def with_output(model: ModelProto, name: str) -> ModelProto:
    wider = ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.add().name = name
    return wider


def put_weight(model: ModelProto, value: Array) -> None:
    next(t for t in model.graph.initializer if t.name == "v").CopyFrom(numpy_helper.from_array(value, "v"))


def test_a_smooth_graph_has_no_excuse() -> None:
    model = text("g (float[8,64] x, float[64,32] w) => (float[8,32] y) { y = MatMul (x, w) }", w=weight(64, 32))
    near = ModelProto()
    near.CopyFrom(model)
    put_first(near, weight(64, 32) * (1 + 1e-3 * np.random.default_rng(0).standard_normal((64, 32))))
    with pytest.raises(ProofError):
        checked(model, model, near)


def put_first(model: ModelProto, value: Array) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value.astype(np.float32), "w"))
