"""Decoders with a cache: the forms in which exporters write them, and the one that is trained for models/."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT
from decoders import FORMS, HEADS_OF, Array, Form, Head, cache_names, decoder, step

from mixquant_onnx.runtime.session import Session

MODEL = ROOT / "models" / "text_decoder"


def logits(session: Session, form: Form, ids: Array, cuts: tuple[int, ...] = ()) -> Array:
    """Logits of all tokens, which are given in pieces, each behind the cache of the last."""
    cache = None
    found = []
    for piece in np.split(ids, cuts, axis=1):
        first, *present = session.run(step(form, piece, cache))
        cache = dict(zip(cache_names("past_key_values"), present, strict=True))
        found.append(first)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", HEADS_OF)
def test_all_forms_compute_the_same_with_and_without_a_cache(form: Form, head: Head) -> None:
    ids = np.random.default_rng(0).integers(0, 192, (1, 12))
    expected = logits(Session(decoder("plain", head)), "plain", ids)
    session = Session(decoder(form, head))
    assert expected.std() > 0.5
    for cuts in ((), (9,), (1, 2, 11)):
        np.testing.assert_allclose(logits(session, form, ids, cuts), expected, atol=2e-4)


def test_the_trained_decoder_continues_text_as_its_manifest_states() -> None:
    """Of text that it was not trained on; with a cache as without."""
    session = Session(MODEL / "model.onnx")
    with np.load(MODEL / "eval.npz") as rows:
        ids = rows["input_ids"]
    found = full(session, ids)
    logarithms = found - np.log(np.exp(found).sum(-1, keepdims=True))
    loss = -np.take_along_axis(logarithms[:, :-1], ids[:, 1:, None], -1).mean()
    told = json.loads((ROOT / "models" / "manifest.json").read_text())["text_decoder"]
    assert loss == pytest.approx(told["float_loss"], abs=1e-4) and loss < 1.5
    np.testing.assert_allclose(full(session, ids[:4], cuts=(100, 255)), found[:4], atol=1e-3)


def full(session: Session, ids: Array, cuts: tuple[int, ...] = ()) -> Array:
    """Logits of all tokens by the trained decoder, in pieces."""
    names = [name for name in session.inputs if name.startswith("past_key_values")]
    cache = {name: np.zeros((len(ids), 2, 0, 32), np.float32) for name in names}
    found = []
    for piece in np.split(ids, cuts, axis=1):
        first, *present = session.run(step("plain", piece, cache))
        cache = dict(zip(names, present, strict=True))
        found.append(first)
    return np.concatenate(found, axis=1)
