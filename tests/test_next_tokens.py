"""Divergence, same token and perplexity of models that give the distribution of the next token."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from token_models import VOCABULARY, token_ids, token_model

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.numerics.distributions import divergence, log_probabilities
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.next_tokens import TokenOutput, token_output, tokens_of_model
from mixquant_onnx.verification.token_quality import mean_of, token_quality

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((6, 7, 11)).astype(np.float32) * 3
OTHER = LOGITS + RANDOM.standard_normal(LOGITS.shape).astype(np.float32) / 2
FOUND = TokenOutput(output="logits", ids="ids", mask="mask", names=("logits",), predicts=True)


def test_the_divergence_is_the_sum_by_its_definition() -> None:
    p, q = (np.exp(x.astype(np.longdouble)) for x in (LOGITS, OTHER))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    assert divergence(LOGITS, OTHER) == pytest.approx((p * np.log(p / q)).sum(-1).astype(np.float64), rel=1e-9)
    assert not np.allclose(divergence(LOGITS, OTHER), divergence(OTHER, LOGITS), rtol=0.01)
    assert log_probabilities(LOGITS) == pytest.approx(np.log(p).astype(np.float64), rel=1e-9)


def test_equal_logits_have_no_divergence_however_large_they_are() -> None:
    for scale in (1.0, 1e4, 1e30):
        assert (divergence(LOGITS * scale, LOGITS * scale) == 0).all()
    huge = np.array([[1e38, -1e38, 0.0]], np.float32)
    assert divergence(huge, huge) == 0
    assert divergence(LOGITS + 1000, OTHER - 1000) == pytest.approx(divergence(LOGITS, OTHER), rel=1e-3)


def test_rounding_makes_no_divergence_negative() -> None:
    near = divergence(LOGITS, LOGITS.astype(np.float64) * (1 + 1e-15))
    assert (near >= 0).all() and near.max() < 1e-14
    before, after = log_probabilities(LOGITS), log_probabilities(LOGITS.astype(np.float64) * (1 + 1e-15))
    assert (np.exp(before) * (before - after)).sum(-1).min() < 0


def test_classes_that_cannot_be_and_nan() -> None:
    never = np.array([0.0, 1.0, -np.inf])
    assert divergence(never, np.array([0.0, 1.0, -np.inf])) == 0
    assert divergence(never, np.array([0.0, 1.0, 1.0])) == pytest.approx(math.log1p(math.e / (1 + math.e)), rel=1e-9)
    assert divergence(np.array([0.0, 1.0, -1e30]), never) == 0
    assert divergence(np.zeros(3), never) == np.inf
    assert divergence(np.zeros(3), np.array([0.0, np.nan, 0.0])) == np.inf


def data_of(feed: dict[str, np.ndarray], rows: int = 2) -> Data:
    feeds = tuple({n: a[k : k + rows] for n, a in feed.items()} for k in range(0, len(feed["ids"]), rows))
    return Data(feeds=feeds, labels=None)


def outputs_of(logits: np.ndarray, rows: int = 2) -> list[list[np.ndarray]]:
    return [[logits[k : k + rows]] for k in range(0, len(logits), rows)]


def test_the_quality_leaves_padding_out_and_has_its_error_over_sequences() -> None:
    ids, mask = RANDOM.integers(0, 11, (6, 7)), np.ones((6, 7), np.int64)
    mask[1, 3:], mask[4, :5] = 0, 0
    found = token_quality(FOUND, data_of({"ids": ids, "mask": mask}), outputs_of(LOGITS), outputs_of(OTHER))
    assert found is not None and (found.sequences, found.tokens) == (6, int(mask.sum()))
    each, kept = divergence(LOGITS, OTHER), mask == 1
    assert found.kl.value == pytest.approx(each[kept].mean())
    sums, counts = (each * mask).sum(1), mask.sum(1)
    spread = np.sum((sums - found.kl.value * counts) ** 2) * 6 / 5
    assert found.kl.error == pytest.approx(math.sqrt(spread) / mask.sum())
    assert found.top1.value == pytest.approx((LOGITS.argmax(-1) == OTHER.argmax(-1))[kept].mean())
    told = kept[:, 1:] & kept[:, :-1]
    for quality, logits in ((found.perplexity, OTHER), (found.float_perplexity, LOGITS)):
        loss = -np.take_along_axis(log_probabilities(logits)[:, :-1], ids[:, 1:, None], -1)[..., 0]
        assert quality is not None and quality.value == pytest.approx(math.exp(loss[told].mean()))
        each, counts = (loss * told).sum(1), told.sum(1)
        spread = np.sum((each - counts * loss[told].mean()) ** 2) * 6 / 5
        assert quality.error == pytest.approx(quality.value * math.sqrt(spread) / counts.sum())


def test_the_error_of_equal_sequences_is_that_of_their_mean() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    found = mean_of([7 * v for v in values], [7] * 4)
    assert found.value == 4 and found.error == pytest.approx(np.std(values, ddof=1) / 2)
    assert mean_of([3.0, 0.0], [2, 0]).error is None


def test_sequences_of_padding_alone_are_not_counted() -> None:
    mask = np.ones((6, 7), np.int64)
    mask[2] = 0
    data = data_of({"ids": np.zeros((6, 7), np.int64), "mask": mask})
    found = token_quality(FOUND, data, outputs_of(LOGITS), outputs_of(OTHER))
    assert found is not None and (found.sequences, found.tokens) == (5, 35)
    hidden = token_quality(replace(FOUND, predicts=False), data, outputs_of(LOGITS), outputs_of(OTHER))
    assert hidden is not None and hidden.kl == found.kl and hidden.perplexity is None is hidden.float_perplexity


def test_no_quality_where_there_is_nothing_to_compare() -> None:
    data = data_of({"ids": np.zeros((6, 7), np.int64), "mask": np.zeros((6, 7), np.int64)})
    assert token_quality(FOUND, data, outputs_of(LOGITS), outputs_of(OTHER)) is None
    data = data_of({"ids": np.zeros((6, 7), np.int64)})
    plain = replace(FOUND, mask="")
    assert token_quality(plain, data, outputs_of(LOGITS), outputs_of(LOGITS[:, :6])) is None
    assert token_quality(plain, data, outputs_of(LOGITS), [[]] * 3) is None
    broken = token_quality(plain, data, outputs_of(LOGITS), outputs_of(LOGITS * np.float32(np.nan)))
    assert broken is not None and broken.kl.value == np.inf and broken.top1.value == 0
    assert broken.perplexity is not None and broken.perplexity.value == np.inf


def found_in(model: ModelProto, **feed: Any) -> TokenOutput | None:
    given = {"ids": token_ids(4)} | feed
    session, data = Session(model), Data(feeds=(given,), labels=None)
    reference = run_all(session, data)
    return token_output(session, data, reference, class_axes(model, reference, session.outputs))


def test_the_output_of_the_next_token_is_found() -> None:
    found = found_in(token_model())
    assert found == TokenOutput(output="logits", ids="ids", mask="", names=("logits",), predicts=True)
    other = found_in(token_model(output="prediction"))
    assert other is not None and other.output == "prediction" and other.predicts
    masked = found_in(token_model(mask=True), attention_mask=np.ones((4, 12), np.int64))
    assert masked is not None and masked.mask == "attention_mask" and masked.predicts


def with_second_output(model: ModelProto, name: str) -> ModelProto:
    model.graph.node.append(helper.make_node("Identity", [model.graph.output[0].name], [name]))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "t", VOCABULARY]))
    return model


def test_of_several_outputs_the_one_called_logits_counts() -> None:
    assert found_in(with_second_output(token_model(output="prediction"), "other_prediction")) is None
    for first, second in (("logits", "prediction"), ("prediction", "decoder.logits")):
        found = found_in(with_second_output(token_model(output=first), second))
        assert found is not None and found.output.endswith("logits")


def test_a_mask_is_no_input_of_ids() -> None:
    model, feed = token_model(mask=True), {"attention_mask": np.ones((4, 12), np.int64), "ids": token_ids(4)}
    found = tokens_of_model(model, Data(feeds=(feed,), labels=None))
    assert found is not None and (found.ids, found.mask) == ("ids", "attention_mask")


def test_logits_of_the_last_token_alone_have_a_divergence_but_predict_nothing() -> None:
    model = token_model(output="all_logits")
    stored = {"from": [11], "to": [12], "axis": [1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in stored.items())
    model.graph.node.append(helper.make_node("Slice", ["all_logits", "from", "to", "axis"], ["logits"]))
    model.graph.output[0].name = "logits"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    found, data = found_in(model), Data(feeds=({"ids": token_ids(4)},), labels=None)
    assert found is not None and not found.predicts
    outputs = run_all(Session(model), data)
    quality = token_quality(found, data, outputs, [[outputs[0][0] * 2]])
    assert quality is not None and quality.tokens == 4 and quality.kl.value > 0 and quality.perplexity is None


def test_of_several_ids_those_of_the_decoder_count() -> None:
    model = token_model()
    model.graph.node[0].input[1] = "decoder_ids"
    model.graph.input[0].name = "decoder_ids"
    model.graph.node.append(helper.make_node("Identity", ["ids"], ["unused"]))
    model.graph.input.insert(0, helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"]))
    model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.INT64, ["n", "t"]))
    found = found_in(model, decoder_ids=token_ids(4, seed=1))
    assert found is not None and found.ids == "decoder_ids"


def test_a_model_that_sees_later_tokens_predicts_none() -> None:
    found = found_in(token_model(causal=False))
    assert found is not None and not found.predicts
    mask = np.ones((4, 12), np.int64)
    mask[:, 8:] = 0
    first = (np.arange(12) == 0).astype(np.int64)
    padded = found_in(token_model(causal=False, mask=True), attention_mask=mask)
    assert padded is not None and not padded.predicts
    for feed in ({"ids": token_ids(4, tokens=1), "attention_mask": mask[:, :1]}, {"attention_mask": mask // 2 + first}):
        only = found_in(token_model(mask=True), **feed)
        assert only is not None and not only.predicts
    data = Data(feeds=({"ids": token_ids(4)},), labels=None, origin="proxy")
    made = tokens_of_model(token_model(), data)
    assert made is not None and not made.predicts
    assert tokens_of_model(token_model(), replace(data, origin="noise")) is None


def test_other_outputs_are_none_of_the_next_token() -> None:
    assert found_in(token_model(output="probabilities", softmax=True)) is None
    assert found_in(token_model(output="last_hidden_state")) is None
    numbers = Data(feeds=({"x": np.zeros((1, 2), np.float32)},), labels=None)
    assert tokens_of_model(token_model(), numbers) is None
    assert tokens_of_model(token_model(), replace(numbers, feeds=())) is None


def test_ids_that_are_no_classes_of_the_output_are_not_its_tokens() -> None:
    model = token_model()
    embedding = next(t for t in model.graph.initializer if t.name == "embedding")
    embedding.raw_data, embedding.dims[0] = 2 * embedding.raw_data, 2 * VOCABULARY
    assert found_in(model, ids=token_ids(4)) is not None
    assert found_in(model, ids=token_ids(4) + VOCABULARY) is None
    assert found_in(model, ids=token_ids(4) - VOCABULARY) is None


def test_a_mask_begins_with_the_tokens_in_the_cache() -> None:
    mask = np.array([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0]])
    assert FOUND.real({"mask": mask}, (2, 3)).tolist() == [[False, True, True], [True, True, False]]
    assert FOUND.real({"mask": mask}, (2, 6)).all() and FOUND.real({"mask": mask}, (3, 3)).all()
