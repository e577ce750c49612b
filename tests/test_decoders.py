"""Decoders with a cache: the forms in which exporters write them, and the one that is trained for models/."""

from __future__ import annotations

import numpy as np
import pytest
from decoders import FORMS, HEADS_OF, Array, Form, Head, cache_names, decoder, step

from mixquant_onnx.runtime.session import Session


def logits(session: Session, form: Form, ids: Array, cuts: tuple[int, ...] = ()) -> Array:
    """Logits of all tokens, which are given in pieces, each behind the cache of the last."""
    cache, found = None, []
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
