"""Inputs that are generated for decoders: texts from their start, and tokens behind a cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest
from decoders import FORMS, KV_HEADS, VOCABULARY, Form, Head, cache_names, decoder
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.config.samples import DataOptions
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.data.preparation import prepare
from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.runtime.session import Feed, Session

FIRST = "past_key_values.0.key"


def check(form: Form, feed: Feed) -> int:
    """All inputs of a batch agree; the number of cached tokens."""
    ids = feed["input_ids"]
    batch, new = ids.shape
    past = int(feed[FIRST].shape[2])
    assert ids.min() >= 0 and ids.max() < VOCABULARY
    assert all(feed[name].shape == (batch, KV_HEADS, past, 16) for name in cache_names("past_key_values"))
    if form == "lengths":
        np.testing.assert_array_equal(feed["seqlens_k"], np.full(batch, past + new - 1))
        assert feed["total_sequence_length"] == past + new and feed["total_sequence_length"].shape == ()
    else:
        np.testing.assert_array_equal(feed["attention_mask"], np.ones((batch, past + new)))
    if form not in ("query", "lengths"):
        np.testing.assert_array_equal(feed["position_ids"], [list(range(past, past + new))] * batch)
    if form in ("merged", "copied"):
        assert feed["use_cache_branch"].tolist() == [past > 0]
    return past


def pasts(feeds: Iterable[Feed], form: Form = "plain") -> set[tuple[int, int]]:
    """Cached and new tokens of the batches, all of which are in order."""
    return {(check(form, feed), feed["input_ids"].shape[1]) for feed in feeds}


def steps_of(form: Form) -> tuple[int, int]:
    """Cached and new tokens: more where a branch of its own meets them alone."""
    return (32, 32) if form in ("merged", "copied") else (63, 1)


@pytest.mark.parametrize("form", FORMS)
def test_proxy_texts_and_steps_behind_a_cache(form: Form) -> None:
    model = decoder(form)
    found = proxy_data(model, Session(model))
    assert found is not None and found.name == "proxy texts"
    assert pasts(found.feeds, form) == {(0, 64), steps_of(form)}
    assert sum(len(feed["input_ids"]) for feed in found.feeds) == 48
    texts = {row.tobytes() for feed in found.feeds if not check(form, feed) for row in feed["input_ids"]}
    assert len(texts) > 28


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_made_of_tokens_too(form: Form) -> None:
    model = decoder(form)
    found = usable_data(Session(model), model)
    assert found is not None and found.origin == "noise"
    assert pasts(found.feeds, form) == {(0, 64), steps_of(form)}
    assert len(np.unique(np.concatenate([feed["input_ids"].ravel() for feed in found.feeds]))) == VOCABULARY


def test_a_cache_holds_what_the_model_made_of_the_text_before() -> None:
    model = decoder()
    session = Session(model)
    found = proxy_data(model, session)
    assert found is not None
    step = next(feed for feed in found.feeds if feed[FIRST].shape[2])
    assert 0.1 < step[FIRST].std() < 10 and not np.array_equal(step[FIRST][0], step[FIRST][1])


@pytest.mark.parametrize("selects", [False, True])
def test_each_part_of_the_rows_has_both_kinds(selects: bool) -> None:
    split = prepare(decoder(), DataOptions(), selects=selects)
    assert split is not None and not split.in_sample
    for part in (split.calibration, split.selection, split.fitting, split.evaluation):
        assert pasts(part.feeds) == {(0, 64), (63, 1)}
    tokens = [{feed["input_ids"].tobytes() for feed in one.feeds} for one in (split.fitting, split.evaluation)]
    assert not tokens[0] & tokens[1]


def sized(model: ModelProto, **sizes: int) -> ModelProto:
    """The model with some free dimensions of its inputs fixed."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return model


def test_sizes_that_the_model_fixes_are_kept() -> None:
    one = sized(decoder("plain"), batch_size=1, sequence_length=1)
    found = proxy_data(one, Session(one))
    assert found is not None and pasts(found.feeds) == {(0, 1), (7, 1)}
    eight = sized(decoder("plain"), batch_size=2, sequence_length=8)
    found = proxy_data(eight, Session(eight))
    assert found is not None and pasts(found.feeds) == {(0, 8), (56, 8)}
    assert {len(feed["input_ids"]) for feed in found.feeds} == {2}


def test_a_cache_of_fixed_length_counts_as_padding() -> None:
    sizes = {"past_sequence_length": 24, "past_sequence_length + sequence_length": 25, "sequence_length": 1}
    model = sized(decoder("plain"), **sizes)
    found = proxy_data(model, Session(model))
    assert found is not None
    for feed in found.feeds:
        assert feed[FIRST].shape[2] == 24 and feed["attention_mask"].tolist() == [[0] * 24 + [1]] * len(feed[FIRST])
        assert (feed["position_ids"] == 0).all()


CASES: list[tuple[Form, Head]] = [*((form, "transposed") for form in FORMS), ("plain", "apart"), ("plain", "gemm")]


GOALS = ("size", "speed", "memory", "qdq")


def each_with_one_goal() -> list[Any]:
    """All pairs of a decoder and a goal, of which each decoder has one that is not slow."""
    return [
        pytest.param(*case, goal, marks=[] if place % len(GOALS) == other else pytest.mark.slow)
        for place, case in enumerate(CASES)
        for other, goal in enumerate(GOALS)
    ]


@pytest.mark.parametrize(("form", "head", "goal"), each_with_one_goal())
def test_a_decoder_is_quantized_and_verified_under_every_target(form: Form, head: Head, goal: str) -> None:
    """Prompts and steps are run; the embedding and the head are quantized as other weights."""
    options: dict[str, Any] = {"target": "qdq"} if goal == "qdq" else {"optimize_for": goal}
    result = mq.quantize(decoder(form, head), bits="4", **options)
    onnx.checker.check_model(result.model)
    assert result.verification is not None
    first = result.verification.quality[0].outputs[0]
    assert first.name == "logits" and first.feeds == 6 and first.decisions is not None
    assert first.decisions.count == 8 * 64 + 4 * steps_of(form)[1] and first.sqnr_db is not None and first.sqnr_db > 10
    copies = 2 if form == "copied" else 1
    names = {name.removesuffix("_no_cache") for name in result.plan.sites}
    assert {"embed", "head" if head == "apart" else "embed"} <= names
    assert len(result.plan.sites) == copies * (16 if head == "apart" else 15)
    assert {scheme.bits for scheme in result.plan.sites.values()} == {4}


@pytest.mark.parametrize("form", ["plain", "copied", pytest.param("query", marks=pytest.mark.slow)])
@pytest.mark.parametrize("head", ["transposed", pytest.param("apart", marks=pytest.mark.slow)])
def test_a_budget_chooses_widths_for_each_weight_of_a_decoder(form: Form, head: Head) -> None:
    """In one file, the embedding and the head too; where they are one tensor, both its places count."""
    result = mq.quantize(decoder(form, head), avg_bits=4.5, bits="2,3,4,5,6,8", cost="network-output", verify=False)
    bits = {name: scheme.bits for name, scheme in result.plan.sites.items()}
    assert set(bits.values()) <= {2, 3, 4, 5, 6, 8} and len(set(bits.values())) >= 3
    assert result.average_bits <= 4.5
    assert bits["embed"] > min(bits.values())
