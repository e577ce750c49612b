"""tools/bench decoders: decoders against onnxruntime's own low-bit quantizer."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT

MODEL = ROOT / "models" / "text_decoder" / "model.onnx"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("benchmarks.decoders")


def test_tokens_follow_others_in_the_cache(bench: Any) -> None:
    model = onnx.load(MODEL)
    ids = np.arange(6).reshape(2, 3)
    feed = bench.feed_of(model, ids, past=5)
    assert set(feed) == {value.name for value in model.graph.input}
    assert feed["attention_mask"].shape == (2, 8) and (feed["position_ids"] == [[5, 6, 7]] * 2).all()
    assert feed["past_key_values.0.key"].shape == (2, 2, 5, 32) and (feed["input_ids"] == ids).all()


def test_the_last_product_and_some_down_projections_get_eight_bits(bench: Any) -> None:
    last, down = bench._eight(onnx.load(MODEL))
    assert list(last) == ["/lm_head/MatMul"]
    assert set(down) == {"/layers.2/down_proj/MatMul", "/layers.3/down_proj/MatMul"}


@pytest.mark.slow
def test_a_decoder_has_far_less_divergence_than_plain_rounding_at_its_bytes(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    (decoder,) = bench.decoders(None)
    few = {name: array[:32] for name, array in decoder.calibration.items()}
    decoder = replace(decoder, calibration=few, held=replace(decoder.held, feeds=decoder.held.feeds[:4]))
    files, judge = bench.onnxruntime_files(decoder, tmp_path), bench.Judge(decoder)
    for name in ("RTN", "RTN with Gather"):
        theirs, size = judge.quality(files[name]), files[name].stat().st_size
        assert 0.005 < theirs.kl.value < 0.1
        for share, most in ((1, 1 - bench.LESS), (bench.SMALLER, 1)):
            made = bench.ours(decoder, int(share * size), tmp_path / "out.onnx", "--table", str(tmp_path / "t"))
            assert made.stat().st_size <= share * size
            assert judge.quality(made).kl.value <= most * theirs.kl.value
