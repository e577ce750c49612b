"""Which inputs of a model follow from token ids, by names, types and ranks, and what they get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import text, weight
from onnx import ModelProto, TensorProto, helper

from mixquant_onnx.config.config import config_of
from mixquant_onnx.data.decoder import Decoder, decoder_of
from mixquant_onnx.data.preparation import all_rows
from mixquant_onnx.errors import DataError

LONG, FLOAT, HALF, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL
Shape = list[int | str]


def model_with(outputs: dict[str, tuple[int, Shape]] | None = None, **inputs: tuple[int, Shape]) -> ModelProto:
    """A table of 40 rows that `input_ids` looks up, with other inputs and outputs that nothing reads or makes."""
    model = text("g (int64[B,S] input_ids, float[40,8] table) => (float[B,S,8] y) { y = Gather (table, input_ids) }",
                 table=weight(40, 8))  # fmt: skip
    model.graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items())
    model.graph.output.extend(helper.make_tensor_value_info(name, *kind) for name, kind in (outputs or {}).items())
    return model


def found(model: ModelProto) -> Decoder:
    decoder = decoder_of(model)
    assert decoder is not None and decoder.tokens.name == "input_ids" and decoder.vocabulary == 40
    return decoder


CACHE: dict[str, Any] = {"past_key_values.0.key": (HALF, ["B", 2, "P", 4])}
PRESENT: dict[str, Any] = {"present.0.key": (HALF, ["B", 2, "T", 4])}


@pytest.mark.parametrize(
    ("name", "kind", "past", "wanted"),
    [
        ("attention_mask", (LONG, ["B", "T"]), 2, np.ones((2, 5))),
        ("attention_mask", (BOOL, ["B", "T"]), 0, np.ones((2, 3), bool)),
        ("position_ids", (LONG, ["B", "S"]), 2, [[2, 3, 4]] * 2),
        ("position_ids", (LONG, [3, "B", "S"]), 0, [[[0, 1, 2]] * 2] * 3),
        ("cache_position", (LONG, ["S"]), 2, [2, 3, 4]),
        ("token_type_ids", (LONG, ["B", "S"]), 2, np.zeros((2, 3))),
        ("use_cache_branch", (BOOL, [1]), 2, [True]),
        ("use_cache_branch", (BOOL, [1]), 0, [False]),
        ("num_logits_to_keep", (LONG, []), 0, 3),
    ],
)
def test_an_input_gets_what_follows_from_the_ids(name: str, kind: tuple[int, Shape], past: int, wanted: Any) -> None:
    decoder = found(model_with(PRESENT, **CACHE, **{name: kind}))
    cache = {"past_key_values.0.key": np.ones((2, 2, past, 4), np.float16)} if past else None
    feed = decoder.feed(np.ones((2, 3), np.int32), cache)
    np.testing.assert_array_equal(feed[name], wanted)
    assert feed[name].dtype == helper.tensor_dtype_to_np_dtype(kind[0]) and feed[name].shape == np.shape(wanted)
    assert feed["past_key_values.0.key"].shape == (2, 2, past, 4) and feed["input_ids"].dtype == np.int64
    assert feed["past_key_values.0.key"].dtype == np.float16 and decoder.is_step(feed) == (past > 0)


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ({"past_0": (FLOAT, [2, "B", 4, "P", 8])}, (2, 3, 4, 0, 8)),
        ({"past_0": (FLOAT, [2, "", 4, "P", 8])}, (2, 3, 4, 0, 8)),
        ({"past_key_0": (FLOAT, ["B", 4, "P", 8])}, (3, 4, 0, 8)),
        ({"past_conv_0": (FLOAT, ["B", 16, 3])}, (3, 16, 3)),
    ],
)
def test_caches_of_other_forms(inputs: dict[str, Any], shape: tuple[int, ...]) -> None:
    outputs = {name.replace("past", "present"): kind for name, kind in inputs.items()}
    decoder = found(model_with(outputs, **inputs))
    (name,) = inputs
    assert decoder.feed(np.zeros((3, 2), np.int64))[name].shape == shape
    assert decoder.caches == {name: name.replace("past", "present")}


@pytest.mark.parametrize(
    "inputs",
    [
        {"encoder_hidden_states": (FLOAT, ["B", "E", 8])},
        {"attention_mask": (FLOAT, ["B", 1, "S", "T"])},
        {"past_key_values.0.key": (FLOAT, ["B", 2, "P", 4])},
        {"lengths": (LONG, ["B"])},
    ],
    ids=str,
)
def test_other_inputs_are_not_guessed(inputs: dict[str, Any]) -> None:
    """A cache without an output that continues it is one of them."""
    model = model_with(**inputs)
    assert decoder_of(model) is None
    with pytest.raises(DataError, match="has no array"):
        all_rows(model, config_of(data={"input_ids": np.zeros((2, 3), np.int64)}).data)
    with pytest.raises(DataError, match="--tokenizer needs a model that reads token ids"):
        all_rows(model, config_of(data="text.txt", tokenizer=list).data)


def test_a_table_of_positions_limits_the_length() -> None:
    model = model_with(position_ids=(LONG, ["B", "S"]))
    model.graph.initializer.append(helper.make_tensor("positions", FLOAT, [16, 8], np.zeros(128)))
    model.graph.node.append(helper.make_node("Gather", ["positions", "position_ids"], ["p"]))
    assert found(model).longest == 16
    for given, lengths in ((np.zeros((2, 16), np.int64), [(2, 16)]), (np.zeros(50, np.int64), [(3, 16)])):
        data = all_rows(model, config_of(data={"input_ids": given}).data)
        assert data is not None and [feed["input_ids"].shape for feed in data.feeds] == lengths
    with pytest.raises(DataError, match="a sequence has 17 tokens, the model 16 positions; give --sequence-length"):
        all_rows(model, config_of(data={"input_ids": np.zeros((2, 17), np.int64)}).data)


def test_two_inputs_of_ids_are_none_of_a_decoder() -> None:
    model = text("""g (int64[B,S] first, int64[B,S] second, float[40,8] table) => (float[B,S,8] a, float[B,S,8] b)
        { a = Gather (table, first) b = Gather (table, second) }""", table=weight(40, 8))  # fmt: skip
    assert decoder_of(model) is None


def test_the_output_of_an_encoder_is_made_up_only_where_that_is_asked_for() -> None:
    names = ("past_key_values.0.decoder.key", "past_key_values.0.encoder.key")
    caches: dict[str, Any] = {names[0]: (FLOAT, ["B", 2, "P", 4]), names[1]: (FLOAT, ["B", 2, "E", 4])}
    outputs = {name.replace("past_key_values", "present"): kind for name, kind in caches.items()}
    encoder: dict[str, Any] = {
        "encoder_hidden_states": (FLOAT, ["B", "E", 8]), "encoder_attention_mask": (LONG, ["B", "E"]),
    }  # fmt: skip
    model = model_with(outputs, **caches, **encoder, use_cache_branch=(BOOL, [1]))
    assert decoder_of(model) is None
    decoder = decoder_of(model, encoded=True)
    assert decoder is not None
    feed = decoder.feed(np.ones((3, 5), np.int64))
    assert feed["encoder_hidden_states"].shape == (3, 16, 8) and feed["encoder_hidden_states"].std() > 0.5
    assert feed["encoder_attention_mask"].tolist() == [[1] * 16] * 3 and not feed["use_cache_branch"]
    assert [feed[name].shape for name in names] == [(3, 2, 0, 4), (3, 2, 16, 4)] and not decoder.is_step(feed)
    cache = {names[0]: np.ones((3, 2, 7, 4), np.float32), names[1]: np.ones((3, 2, 16, 4), np.float32)}
    step = decoder.feed(np.zeros((3, 1), np.int64), cache)
    assert decoder.is_step(step) and step["use_cache_branch"] and (step[names[1]] == 1).all()
    assert not np.array_equal(step["encoder_hidden_states"], feed["encoder_hidden_states"])


def test_a_state_of_fixed_size_beside_a_cache_counts_no_tokens() -> None:
    """As of models in which some layers are convolutions."""
    state: dict[str, Any] = {"past_conv.0": (FLOAT, ["B", 16, 3])}
    more = {**PRESENT, "present_conv.0": state["past_conv.0"]}
    decoder = found(model_with(more, **CACHE, **state, attention_mask=(LONG, ["B", "T"])))
    feed = decoder.feed(np.ones((2, 3), np.int64))
    assert feed["attention_mask"].shape == (2, 3) and not decoder.is_step(feed)
    cache = {"past_key_values.0.key": np.ones((2, 2, 5, 4)), "past_conv.0": np.ones((2, 16, 3))}
    step = decoder.feed(np.ones((2, 1), np.int64), cache)
    assert step["attention_mask"].shape == (2, 6) and (step["past_conv.0"] == 1).all()
