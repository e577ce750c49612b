"""Batches of tokens behind a cache that the model itself makes of the tokens before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.decoder import Decoder
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session

_EVERY = 4
"""One of this many sequences is cut into a cache and the tokens behind it."""


def with_steps(decoder: Decoder, model: ModelProto, feeds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Some sequences cut in the middle, so that both branches of a model meet tokens.

    Args:
        decoder: The inputs of the model.
        model: The model.
        feeds: Batches of whole sequences.

    Returns:
        Batches of the other sequences, and of second halves behind the cache of the first halves; `feeds` where the
        model does not load.
    """
    try:
        session = Session(model)
    except RuntimeFailure:
        return list(feeds)
    found: list[Mapping[str, Any]] = []
    seen = 0
    for feed in feeds:
        ids = feed[decoder.tokens.name]
        chosen = (np.arange(seen, seen + len(ids)) + 1) % _EVERY == 0
        seen += len(ids)
        step = behind_cache(decoder, session, ids[chosen], ids.shape[1] // 2) if chosen.any() else None
        if step is None:
            found.append(feed)
            continue
        found += [decoder.feed(ids[~chosen])] if not chosen.all() else []
        found.append(step)
    return found


def behind_cache(decoder: Decoder, session: Session, ids: FloatArray, past: int) -> Feed | None:
    """A batch of tokens behind a cache that the model makes of the tokens before them.

    Args:
        decoder: The inputs of the model.
        session: The model.
        ids: [batch, all tokens].
        past: Tokens that are cached.

    Returns:
        The batch; None where the model has no cache of free length, or does not run.
    """
    if not 0 < past < ids.shape[1] or not decoder.caches:
        return None
    cache: Feed | None = None
    pieces = 1 if decoder.length is None else past // decoder.length
    for piece in np.split(ids[:, :past], pieces, axis=1):
        outputs = run_or_none(session, decoder.feed(piece, cache))
        if outputs is None:
            return None
        cache = decoder.next_cache(dict(zip(session.outputs, outputs, strict=True)))
    return decoder.feed(ids[:, past:], cache)


def run_or_none(session: Session, feed: Feed) -> list[FloatArray] | None:
    """The outputs of a run.

    Args:
        session: The model.
        feed: The batch.

    Returns:
        Outputs in order; None where the model does not run, or gives NaN.
    """
    try:
        outputs = session.run(feed)
    except RuntimeFailure:
        return None
    floats = [a for a in outputs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    return None if any(np.isnan(a).any() for a in floats) else outputs
