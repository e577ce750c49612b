"""What a verification says of what it could not check."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from cases import Array, classifier, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.model.files import as_loaded
from mixquant_onnx.verification.divergence import first_divergence
from mixquant_onnx.verification.result import Verification
from mixquant_onnx.verification.verify import verify


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def verified(data: Data | None, refusal: str | None = None, **given: Any) -> Verification:
    """`verify` of a model that is written as it is, without quantized weights."""
    model = classifier()
    rewritten = mq.quantize(model).rewritten
    return verify(as_loaded(model), model, {}, {}, rewritten, model, data, refusal, **given)


def test_without_rows_the_outputs_are_not_compared_and_a_note_says_so() -> None:
    found = verified(None)
    assert found.notes == ("outputs were not compared: no generated input runs on the float model; give --data",)
    assert (found.quality, found.deployed, found.samples, found.reference_sqnr_db) == ((), None, 0, None)
    assert not found.synthetic


def test_a_float_model_that_does_not_load_leaves_the_codes_alone() -> None:
    found = verified(Data(feeds=({"x": normal(3, 64)},), labels=None), "no kernel for it")
    assert found.notes == (
        "ONNX Runtime does not load the float model here (no kernel for it); the verification is on the codes alone",
    )
    assert found.quality == () and found.reference_sqnr_db is None and found.samples == 3


def test_what_was_compared_leaves_no_note_and_reports_its_progress() -> None:
    seen: list[tuple[str, int, int]] = []
    found = verified(
        Data(feeds=({"x": normal(3, 64)},), labels=None, origin="noise"),
        progress=lambda *step: seen.append(step),
    )
    assert found.notes == () and found.reference_sqnr_db == float("inf") and found.synthetic
    assert [quality.profile for quality in found.quality] == ["exact", "deployed"]
    assert seen == [("verify", step, 4) for step in range(5)]


def test_a_model_with_random_outputs_is_not_compared_with_its_reference() -> None:
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) "
                 "{ h = MatMul (x, w) r = RandomNormalLike (h) y = Add (h, r) }", w=weight(64, 32))  # fmt: skip
    found = mq.quantize(model, data_free=True).verification
    assert found is not None and found.reference_sqnr_db is None
    assert found.notes == (
        "the model's outputs change from run to run; those of the same weights in float were not compared",
    )


def test_weights_of_several_graphs_are_decoded_by_the_runtime() -> None:
    model = text("""g (float[N,64] x, bool c, float[64,64] w) => (float[N,64] y) {
        h = MatMul (x, w)
        y = If (c) <then_branch = t () => (float[N,64] a) { a = Relu (h) },
                    else_branch = e () => (float[N,64] b) { b = MatMul (h, v) }> }""", w=weight(64, 64))  # fmt: skip
    inner = next(a.g for a in model.graph.node[1].attribute if a.name == "else_branch")
    inner.initializer.append(onnx.numpy_helper.from_array(weight(64, 64), "v"))
    result = mq.quantize(model, data_free=True)
    assert {result.sites[name].site.scope for name in result.plan.sites} == {"", inner_scope(result)}
    assert result.verification is not None
    assert (result.verification.codes, result.verification.decoder) == (2, "ONNX Runtime")


def inner_scope(result: mq.RunResult) -> str:
    return next(scope for name in result.plan.sites if (scope := result.sites[name].site.scope))


def difference_of(factor: float) -> ModelProto:
    """x * factor - x, all zero for a factor of 1."""
    return text("g (float[N,8] x, float c) => (float[N,8] y) { h = Mul (x, c) y = Sub (h, x) }",
                c=np.array(factor, np.float32))  # fmt: skip


def test_rounding_of_a_value_that_is_all_zero_is_no_divergence() -> None:
    feeds = [{"x": normal(4, 8)}]
    assert first_divergence(difference_of(1 + 1e-6), difference_of(1), feeds, 70) is None
    assert first_divergence(difference_of(1), difference_of(1 + 1e-6), feeds, 70) is not None
    found = first_divergence(difference_of(1.1), difference_of(1), feeds, 70)
    assert found is not None and "Mul" in found.where and not found.decision
