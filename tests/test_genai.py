"""Written decoders in onnxruntime-genai, where it is installed: greedy tokens are those of ONNX Runtime itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from decoders import HEAD, HEADS, KV_HEADS, LAYERS, LONGEST, VOCABULARY, WIDTH, Array, cache_names, decoder, step

import mixquant_onnx as mq
from mixquant_onnx.runtime.session import Session

genai = pytest.importorskip("onnxruntime_genai")

PROMPT, TOKENS = [5, 9, 100, 42], 32
NAMES = {
    "inputs": {
        "input_ids": "input_ids", "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
    },
    "outputs": {
        "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
    },
}  # fmt: skip


def write_config(folder: Path, shared: bool) -> None:
    """The genai_config.json of a test decoder; `shared`: one buffer for the caches before and after a step."""
    sizes = {
        "head_size": HEAD, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
    }  # fmt: skip
    session: dict[str, Any] = {"session_options": {"provider_options": []}, "filename": "model.onnx"}
    model = {
        "type": "llama", "vocab_size": VOCABULARY, "context_length": LONGEST, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "decoder": {**session, **sizes, **NAMES},
    }  # fmt: skip
    search = {"max_length": TOKENS, "do_sample": False, "past_present_share_buffer": shared}
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))


def by_genai(folder: Path) -> list[int]:
    model = genai.Model(str(folder))
    wanted = genai.GeneratorParams(model)
    wanted.set_search_options(max_length=TOKENS)
    generator = genai.Generator(model, wanted)
    generator.append_tokens(np.array([PROMPT], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def by_hand(path: Path) -> list[int]:
    session, tokens = Session(path), list(PROMPT)
    new: Array = np.array([PROMPT])
    cache = None
    while len(tokens) < TOKENS:
        logits, *present = session.run(step("query", new, cache))
        cache = dict(zip(cache_names("past_key_values"), present, strict=True))
        new = logits[:, -1:].argmax(-1)
        tokens.append(int(new[0, 0]))
    return tokens


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 8, "optimize_for": "memory"}, {"avg_bits": 4.5}], ids=str)
def test_a_written_decoder_generates_the_same_tokens(tmp_path: Path, options: dict[str, Any], shared: bool) -> None:
    onnx.save(decoder("query"), tmp_path / "in.onnx")
    mq.quantize(tmp_path / "in.onnx", tmp_path / "model.onnx", **options)
    write_config(tmp_path, shared)
    found = by_genai(tmp_path)
    assert found == by_hand(tmp_path / "model.onnx") and len(set(found)) > 5
