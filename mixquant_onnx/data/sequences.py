"""Rows of token ids alone, completed to all inputs of a language model. A row is a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mixquant_onnx.data.decoder import Decoder
from mixquant_onnx.errors import DataError
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

_USUAL = 256
"""Tokens of a row that is cut from a text."""

_MOST_ROWS = 32
"""Most sequences of a batch."""

_MOST_LOGITS = 1 << 24
"""Most logits of a batch (64 MiB); affects memory, not results."""


def completed(
    source: object, given: Mapping[str, Any], decoder: Decoder, length: int | None
) -> list[Mapping[str, Any]]:
    """Inputs that follow from token ids, where they are not given.

    Args:
        source: Where the arrays come from, for messages.
        given: Arrays by name: `input_ids` (or as the model calls it) [rows, tokens] with an optional mask, one long
            array [tokens], or sequences of any lengths as `input_ids.0`, `input_ids.1` and so on.
        decoder: The inputs of the model.
        length: Tokens of a row: a long array is cut, sequences are truncated; None for what is usual.

    Returns:
        Batches, in the order of the sequences; `given` itself where nothing is missing, or there are no token ids.

    Raises:
        DataError: The ids are no sequences, or do not fit the model.
    """
    name = decoder.tokens.name
    numbered = [given[key] for key in (f"{name}.{k}" for k in range(len(given))) if key in given]
    plain = isinstance(given.get(name), np.ndarray) and given[name].ndim == 2 and length is None
    if (plain and not decoder.made - given.keys()) or (name not in given and not numbered):
        return [given]
    masks = {one.name for one, kind in decoder.others if kind == "mask"}
    ids = numbered or given[name]
    rows = _rows(source, ids, next((given[key] for key in masks if key in given), None), decoder, length)
    if rows is None or given.keys() & (decoder.made - masks):
        whole = _array(source, ids, decoder)
        return [{**decoder.feed(whole), **given, name: whole.astype(decoder.tokens.dtype)}]
    for row in rows:
        _check(source, row, decoder)
    return list(_batches(rows, decoder))


def cut(ids: FloatArray, decoder: Decoder, length: int | None) -> list[FloatArray]:
    """The sequences of a long text.

    Args:
        ids: [tokens].
        decoder: The inputs of the model.
        length: Tokens of a sequence; None for what is usual.

    Returns:
        Sequences that do not overlap; the last tokens are left out, unless they are all.
    """
    each = length or decoder.length or min(_USUAL, decoder.longest or _USUAL)
    whole = len(ids) // each * each
    return np.split(ids[:whole], whole // each) if whole else [ids]


def _rows(source: object, ids: Any, mask: Any, decoder: Decoder, length: int | None) -> list[FloatArray] | None:
    """The sequences without padding; None where a mask leaves out tokens between others."""
    if isinstance(ids, (list, tuple)) and ids and all(isinstance(row, (list, tuple, np.ndarray)) for row in ids):
        found = [_array(source, row, decoder).reshape(-1) for row in ids]
    else:
        whole = _array(source, ids, decoder)
        if whole.ndim == 1:
            return cut(whole, decoder, length)
        if whole.ndim != 2:
            raise DataError(f"{source}: '{decoder.tokens.name}' has shape {whole.shape}; give rows of token ids")
        found = list(whole)
    if mask is not None:
        seen = [np.flatnonzero(row) for row in np.asarray(mask)]
        if len(seen) != len(found) or any(len(s) and s[-1] - s[0] + 1 != len(s) for s in seen):
            return None
        found = [row[s] for row, s in zip(found, seen, strict=True)]
    return [row[: length or decoder.length or len(row)] for row in found]


def _array(source: object, ids: Any, decoder: Decoder) -> FloatArray:
    try:
        found = np.asarray(ids)
    except ValueError as error:
        raise DataError(f"{source}: '{decoder.tokens.name}' is no array of token ids ({error})") from error
    if found.dtype.kind not in "iu":
        raise DataError(f"{source}: '{decoder.tokens.name}' is {found.dtype}; give token ids as whole numbers")
    return found


def _check(source: object, row: FloatArray, decoder: Decoder) -> None:
    """Raise DataError where a sequence is empty or too long, or has ids beyond the vocabulary."""
    if not row.size:
        raise DataError(f"{source}: a sequence has no tokens")
    if row.min() < 0 or row.max() >= decoder.vocabulary:
        wrong = row.min() if row.min() < 0 else row.max()
        raise DataError(f"{source}: token id {wrong} is not in the model's vocabulary of {decoder.vocabulary}")
    if decoder.longest and len(row) > decoder.longest:
        raise DataError(
            f"{source}: a sequence has {len(row)} tokens, the model {decoder.longest} positions; give --sequence-length"
        )
    if decoder.length is not None and len(row) != decoder.length:
        raise DataError(f"{source}: a sequence has {len(row)} tokens, the model takes {decoder.length}")
    if decoder.length == 1:
        raise DataError(f"{source}: the model takes one token at a time; give all its inputs, with the cache")


def _batches(rows: Sequence[FloatArray], decoder: Decoder) -> Iterator[Feed]:
    """Neighbours of equal length, in batches."""
    for length, group in groupby(rows, len):
        alike = np.stack(list(group))
        most = max(1, min(_MOST_ROWS, _MOST_LOGITS // (length * decoder.vocabulary)))
        size = decoder.batch or most
        for first in range(0, len(alike), size):
            if decoder.batch is None or first + size <= len(alike):
                yield decoder.feed(alike[first : first + size])
