"""The output that holds the distribution of the next token, and the tokens that it follows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.numerics.outputs import Array, Outputs, arrays_of, is_numbers
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session
from mixquant_onnx.verification.classes import class_axes

_LOGITS = re.compile(r"(^|[./_])logits$", re.IGNORECASE)
_NO_IDS = re.compile(r"mask|position|segment|type|past|present|length|cache|beam|seqlen", re.IGNORECASE)
_MASK = re.compile(r"mask", re.IGNORECASE)

_SAME = 1e-3
"""Change of a logit, as a share of the largest one, up to which it counts as the same: kernels may sum in another order
where other positions differ.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutput:
    """Where a model gives the distribution of the next token.

    Attributes:
        output: Name of the output of logits, [sequences, ..., vocabulary].
        ids: Name of the input of token ids, [sequences, tokens].
        mask: Name of the input that marks the tokens that are no padding; "" for none.
        names: Names of all outputs, in order.
        predicts: Whether the ids are what is predicted: the user's, of a model that does not see what comes later.
    """

    output: str
    ids: str
    mask: str
    names: tuple[str, ...]
    predicts: bool = False

    def logits(self, outputs: list[Array]) -> Array | None:
        """The logits among the outputs of one batch; None where they are missing."""
        return arrays_of(outputs, self.names).get(self.output)

    def real(self, feed: Feed, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which positions are no padding.

        Args:
            feed: The batch.
            shape: Shape of the logits without the vocabulary.

        Returns:
            An array of that shape; True throughout without a mask that fits.
        """
        mask = np.asarray(feed[self.mask]) if self.mask else None
        if mask is None or len(shape) != 2 or mask.ndim != 2 or len(mask) != shape[0] or mask.shape[1] < shape[1]:
            return np.ones(shape, np.bool_)
        return np.asarray(mask[:, mask.shape[1] - shape[1] :] != 0)


def token_output(session: Session, data: Data, reference: Outputs, axes: Mapping[str, int]) -> TokenOutput | None:
    """Find the output of logits: the one of that name, or the only one that has a class for every token id.

    Args:
        session: The float model.
        data: Samples, of which the first batch is inspected.
        reference: Outputs of the model on `data`.
        axes: Class axis, by name of the output (`classes.class_axes`).

    Returns:
        Where the distribution is; None for noise, and where the model reads no token ids, or has no such output.
    """
    feed = data.feeds[0]
    if data.origin == "noise" or not _token_inputs(feed):
        return None
    arrays = arrays_of(reference[0], session.outputs)
    found = {name: ids for name, array in arrays.items() if (ids := _ids_of(array, feed))}
    named = [name for name in found if _LOGITS.search(name)]
    others = [name for name in found if axes.get(name) == arrays[name].ndim - 1 and not _is_distribution(arrays[name])]
    chosen = named or (others if len(others) == 1 else [])
    if not chosen:
        return None
    output, ids = chosen[0], found[chosen[0]]
    masks = (n for n, a in feed.items() if _MASK.search(n) and np.ndim(a) == 2 and len(a) == len(feed[ids]))
    made = TokenOutput(output=output, ids=ids, mask=next(masks, ""), names=tuple(session.outputs))
    return replace(made, predicts=data.origin == "user" and _is_causal(session, feed, made, arrays[output]))


def tokens_of_model(model: ModelProto, data: Data) -> TokenOutput | None:
    """The same for a model that is not loaded yet.

    Args:
        model: The float model.
        data: Samples, of which the first batch is run.

    Returns:
        Where the distribution is; None where there is none, or the model does not run.
    """
    if not data.feeds or not _token_inputs(data.feeds[0]):
        return None
    try:
        session = Session(model)
        first = replace(data, feeds=data.feeds[:1], labels=None)
        reference = run_all(session, first)
        return token_output(session, first, reference, class_axes(model, reference, session.outputs))
    except RuntimeFailure:
        return None


def _token_inputs(feed: Feed) -> list[str]:
    """Inputs of token ids, those of a decoder first."""
    found = [
        n for n, a in feed.items() if np.ndim(a) == 2 and a.dtype.kind in "iu" and not _NO_IDS.search(n) and a.size
    ]
    return sorted(found, key=lambda name: "decoder" not in name)


def _ids_of(logits: Array, feed: Feed) -> str:
    """The input whose ids are classes of `logits`; "" where there is none."""
    if not is_numbers(logits) or logits.ndim < 2 or not logits.size or logits.shape[-1] < 2:
        return ""
    fits = (n for n in _token_inputs(feed) if len(feed[n]) == len(logits) and feed[n].min() >= 0)
    return next((n for n in fits if feed[n].max() < logits.shape[-1]), "")


def _is_distribution(values: Array) -> bool:
    """Whether these are probabilities already, and no logits."""
    return bool(values.min() >= 0 and np.allclose(values.astype(np.float64).sum(-1), 1, atol=2e-3))


def _is_causal(session: Session, feed: Feed, found: TokenOutput, logits: Array) -> bool:
    """Whether the logits of a token do not change with the last one."""
    ids = np.array(feed[found.ids])
    if logits.shape[:-1] != ids.shape or ids.shape[1] < 2:
        return False
    real = found.real(feed, ids.shape)
    last = ids.shape[1] - 1 - real[:, ::-1].argmax(1)
    rows = np.arange(len(ids))
    ids[rows, last] = (ids[rows, last] + 1) % logits.shape[-1]
    try:
        changed = found.logits(session.run({**feed, found.ids: ids}))
    except RuntimeFailure:
        return False
    if changed is None or changed.shape != logits.shape:
        return False
    before = real & (np.arange(ids.shape[1]) < last[:, None])
    apart = np.abs(changed.astype(np.float64) - logits.astype(np.float64))[before]
    return bool(before.any() and not (apart > _SAME * np.abs(logits[before]).max()).any())
