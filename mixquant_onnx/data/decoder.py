"""The inputs of a language model: token ids, and what follows from them (mask, positions, cache, lengths)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import ModelProto

from mixquant_onnx.data.proxies.readers import index_limits, lengths_read
from mixquant_onnx.data.proxies.roles import states_of
from mixquant_onnx.model.signature import Input, model_inputs
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

_Kind = Literal[
    "mask", "positions", "zeros", "cache", "last", "total", "branch", "kept", "encoded", "encoded mask", "encoded cache"
]
"""What an input holds: 1 for each real token, positions, zeros, cached values, the place of the last token, the number
of all tokens, whether a cache is used, the number of tokens for which there are to be logits, the output of an encoder
with its mask and what is cached of it.
"""

_ENCODED = 16
"""Length of the output of an encoder that is made up; the value does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """The inputs of a model of which token ids determine the others.

    Attributes:
        tokens: The input of token ids, [batch, new tokens].
        vocabulary: Number of valid ids.
        longest: Most positions of a table that is looked up; 0 where there is none.
        caches: Output by input, for the cached keys and values.
        others: The other inputs with what they hold.
    """

    tokens: Input
    vocabulary: int
    longest: int
    caches: Mapping[str, str]
    others: tuple[tuple[Input, _Kind], ...]

    @property
    def length(self) -> int | None:
        """New tokens in a batch; None where that is free."""
        size = (self.tokens.dims or ("", ""))[1]
        return size if isinstance(size, int) else None

    @property
    def batch(self) -> int | None:
        """Sequences in a batch; None where that is free."""
        size = (self.tokens.dims or ("", ""))[0]
        return size if isinstance(size, int) else None

    @property
    def branches(self) -> bool:
        """Whether the model has a part of its own for an empty cache."""
        return any(kind == "branch" for _, kind in self.others)

    @property
    def made(self) -> frozenset[str]:
        """Names of the inputs that `feed` makes."""
        return frozenset(other.name for other, _ in self.others)

    def feed(self, ids: FloatArray, cache: Feed | None = None) -> Feed:
        """A batch of new tokens.

        Args:
            ids: [batch, new tokens].
            cache: Cached keys and values by name of the input, of tokens before `ids`; None for an empty cache.

        Returns:
            All inputs by name. A cache of fixed length that is not given counts as padding.
        """
        batch, new = ids.shape
        empty = {
            one.name: _zeros(one, batch, self._named_batch, 0 if kind == "cache" else _ENCODED)
            for one, kind in self.others
            if kind in ("cache", "encoded cache")
        }
        past = self._past(cache or empty)
        real = past if cache else 0
        values: dict[_Kind, FloatArray] = {
            "mask": np.concatenate([np.full((batch, past), bool(cache)), np.ones((batch, new), np.bool_)], axis=1),
            "positions": np.arange(real, real + new),
            "zeros": np.zeros((batch, new)),
            "last": np.full(batch, past + new - 1),
            "total": np.array(past + new),
            "branch": np.array(bool(cache)),
            "kept": np.array(new),
            "encoded mask": np.ones((batch, _ENCODED)),
        }
        found: dict[str, FloatArray] = {self.tokens.name: ids.astype(self.tokens.dtype)}
        for one, kind in self.others:
            if kind == "encoded":
                value = _made_up(one, batch, int(ids.sum()))
            else:
                value = (cache or empty)[one.name] if one.name in empty else _shaped(values[kind], one, (batch, new))
            found[one.name] = np.array(value, one.dtype, order="C")
        return found

    def next_cache(self, outputs: Mapping[str, FloatArray]) -> Feed:
        """The cache behind a run.

        Args:
            outputs: Outputs of the run by name.

        Returns:
            Cached keys and values by name of the input.
        """
        return {given: outputs[made] for given, made in self.caches.items()}

    def is_step(self, feed: Feed) -> bool:
        """Whether a batch has a cache that holds tokens."""
        return self._past(feed) > 0

    def _past(self, cache: Feed) -> int:
        """Number of cached tokens."""
        axes = {one.name: _past_axes(one.dims or (), self._named_batch) for one, kind in self.others if kind == "cache"}
        free = {name: found[0] for name, found in axes.items() if found}
        # Where all caches have a fixed length: [batch, heads, tokens, size].
        counted = free or dict.fromkeys((o.name for o, k in self.others if k == "cache" and len(o.dims or ()) > 3), -2)
        return max((cache[name].shape[axis] for name, axis in counted.items() if name in cache), default=0)

    @property
    def _named_batch(self) -> int | str:
        return (self.tokens.dims or ("",))[0]


def decoder_of(model: ModelProto, encoded: bool = False) -> Decoder | None:
    """The inputs of a language model.

    Args:
        model: The model.
        encoded: Whether the output of an encoder may be made up, which does not follow from token ids.

    Returns:
        None where the model has no single input of token ids, or inputs that do not follow from them.
    """
    inputs = model_inputs(model)
    ids = [i for i in inputs if _may_be_tokens(i)]
    limits = index_limits(model) if ids else {}
    ids = [i for i in ids if i.name in limits]
    ids = [i for i in ids if i.name == "input_ids"] or ids
    if len(ids) != 1:
        return None
    caches = {name: made for name, made in states_of(model, inputs).items() if name != ids[0].name}
    lengths = lengths_read(model)
    others: list[tuple[Input, _Kind]] = []
    for one in inputs:
        if one.name != ids[0].name:
            kind = (_encoder_kind(one, caches) if encoded else None) or lengths.get(one.name) or _kind(one, caches)
            if kind is None:
                return None
            others.append((one, kind))
    longest = [limits[one.name] for one, kind in others if kind == "positions" and one.name in limits]
    return Decoder(
        tokens=ids[0],
        vocabulary=limits[ids[0].name],
        longest=min(longest, default=0),
        caches=caches,
        others=tuple(others),
    )


_NOT_TOKENS = ("mask", "position", "type", "segment", "length")


def _may_be_tokens(given: Input) -> bool:
    named = not any(part in given.name.lower() for part in _NOT_TOKENS)
    return named and not given.sequence and given.dtype.kind == "i" and len(given.dims or ()) == 2


def _encoder_kind(given: Input, caches: Mapping[str, str]) -> _Kind | None:
    """What an input holds of the output of an encoder; None where it holds nothing of it."""
    if "encoder" not in given.name.lower().replace("decoder", ""):
        return None
    if given.name in caches:
        return "encoded cache"
    rank = len(given.dims or ())
    return "encoded" if rank == 3 and given.dtype.kind == "f" else "encoded mask" if rank == 2 else None


def _kind(given: Input, caches: Mapping[str, str]) -> _Kind | None:
    """What an input holds, by its name, type and rank; None where it does not follow from token ids."""
    name, rank = given.name.lower(), len(given.dims or ())
    if given.name in caches:
        return "cache" if rank > 2 else None
    if given.dtype.kind not in "ib" or given.sequence or given.dims is None:
        return None
    if "use_cache" in name and given.dtype == np.bool_:
        return "branch"
    if "mask" in name and rank == 2:
        return "mask"
    if "position" in name and rank in (1, 2, 3):
        return "positions"
    if ("token_type" in name or "segment" in name) and rank == 2:
        return "zeros"
    return "kept" if "logits_to_keep" in name and rank < 2 else None


def _past_axes(dims: Sequence[int | str], batch: int | str) -> list[int]:
    """The axes of a cache that count tokens: the free ones but that of the batch, the first where none is called so."""
    free = [axis for axis, size in enumerate(dims) if not isinstance(size, int)]
    if isinstance(batch, int):
        return free
    named = [axis for axis in free if batch and dims[axis] == batch] or free[:1]
    return [axis for axis in free if axis not in named]


def _zeros(given: Input, batch: int, named: int | str, length: int) -> FloatArray:
    """A cache of `length` tokens, where that is free."""
    dims = given.dims or ()
    past = _past_axes(dims, named)
    sizes = [d if isinstance(d, int) else length if axis in past else batch for axis, d in enumerate(dims)]
    return np.zeros(sizes, given.dtype)


def _made_up(given: Input, batch: int, seed: int) -> FloatArray:
    """The output of an encoder: normal numbers."""
    _, length, width = given.dims or (0, 0, 0)
    shape = (batch, length if isinstance(length, int) else _ENCODED, width if isinstance(width, int) else 1)
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def _shaped(value: FloatArray, given: Input, tokens: tuple[int, int]) -> FloatArray:
    """A value in the rank of its input: [batch, new] and [3, batch, new] repeat positions, [1] and [] hold a number."""
    dims = given.dims or ()
    if value.ndim == 1 and len(dims) > 1 and value.shape[0] == tokens[1]:
        return np.broadcast_to(value, (*(d if isinstance(d, int) else tokens[0] for d in dims[:-2]), *tokens))
    return value.reshape([1] * len(dims)) if value.ndim == 0 else value
