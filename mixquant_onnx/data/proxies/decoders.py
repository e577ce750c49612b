"""Proxy batches for decoders with a cache: texts from their start, and single tokens behind a cache of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.decoder import Decoder
from mixquant_onnx.data.proxies import signals
from mixquant_onnx.data.steps import behind_cache, run_or_none
from mixquant_onnx.data.work import multiplications
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed, Session

TEXTS, STEPS = 32, 16
"""Texts, and tokens behind the cache of other texts."""

_FEWEST = 16
"""Fewest texts: the least that can be split (`data.split`)."""

_LARGE = 10**10
"""Multiplications for one text beyond which only the fewest are generated (see `build`)."""

_LENGTHS = (64, 32, 16, 8, 1)
_BATCHES = (4, 1)

Ids = Callable[[np.random.Generator, tuple[int, int]], FloatArray]
"""Token ids of a shape."""


def texts(decoder: Decoder) -> Ids:
    """Texts of the decoder's vocabulary.

    Args:
        decoder: The decoder.

    Returns:
        A maker of token ids.
    """
    return lambda random, shape: signals.tokens(random, shape, decoder.vocabulary)


def decoder_feeds(model: ModelProto, decoder: Decoder, session: Session, ids: Ids) -> list[Feed]:
    """Batches on which the model runs: texts, and tokens behind a cache that the model made of a text.

    Behind a cache there is one token; half of a text where the model has weights of its own for that case.

    Args:
        model: The model.
        decoder: Its inputs.
        session: The model, loaded.
        ids: Makes token ids.

    Returns:
        Texts, then tokens behind a cache; empty where the model does not run on them.
    """
    for batch, length in _sizes(decoder):
        first = decoder.feed(ids(np.random.default_rng((_SEED, 0)), (batch, length)))
        if run_or_none(session, first) is None:
            continue
        shapes = {name: value.shape for name, value in first.items()}
        count = TEXTS if multiplications(model, shapes) // batch <= _LARGE else _FEWEST
        feeds = [
            decoder.feed(ids(np.random.default_rng((_SEED, n)), (batch, length))) for n in range(-(-count // batch))
        ]
        new = decoder.length or (length // 2 if decoder.branches and length > 1 else 1)
        shape = (batch, length if decoder.length is None else _PIECES * new)
        behind = [ids(np.random.default_rng((_SEED, len(feeds) + n)), shape) for n in range(-(-STEPS // batch))]
        steps = (behind_cache(decoder, session, one, one.shape[1] - new) for one in behind)
        return [feed for feed in (*feeds, *steps) if feed is not None and run_or_none(session, feed) is not None]
    return []


_SEED = 0
"""The value does not matter."""

_PIECES = 8
"""Runs that make a text where the model takes a fixed number of new tokens."""


def _sizes(decoder: Decoder) -> Iterator[tuple[int, int]]:
    """Batches and lengths to try."""
    for batch in _BATCHES if decoder.batch is None else (decoder.batch,):
        for length in _LENGTHS if decoder.length is None else (decoder.length,):
            if not decoder.longest or length <= decoder.longest:
                yield batch, length
