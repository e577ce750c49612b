"""The samples of a run, read or generated once and split once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from onnx import ModelProto

from mixquant_onnx.config.parsing import Labels, Rows
from mixquant_onnx.config.samples import DataOptions
from mixquant_onnx.data.dataset import Data, DataSplit, undivided
from mixquant_onnx.data.decoder import Decoder, decoder_of
from mixquant_onnx.data.files import data_of, load_data
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.data.sequences import completed, cut
from mixquant_onnx.data.split import PROMISE_SHARE, SHARE, split_data
from mixquant_onnx.data.steps import with_steps
from mixquant_onnx.data.strata import split_of_kinds
from mixquant_onnx.data.texts import text_files, token_ids
from mixquant_onnx.errors import DataError
from mixquant_onnx.model.external import is_large
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session


def prepare(
    model: ModelProto, options: DataOptions, *, selects: bool = False, judges: bool = False, stands_in: bool = True
) -> DataSplit | None:
    """The user's samples; without any, proxy inputs, or else noise.

    Args:
        model: The float model.
        options: Where data is read from.
        selects: Samples decide between plans.
        judges: An accuracy target is evaluated on samples, so that more of them are held out.
        stands_in: Without the user's samples others are generated.

    Returns:
        The parts; None where there are no samples, or the model does not run on those that were generated. A model of
        over 2 GB is only run on the user's samples.

    Raises:
        DataError: The user's samples do not fit the model.
    """
    evaluation = None if options.eval_data is None else _read(model, options.eval_data, options, None)
    if options.data is not None:
        given = _read(model, options.data, options, options.labels)
        share = PROMISE_SHARE if judges else SHARE
        return split_of_kinds(model, given, selects, evaluation, share, _kind(decoder_of(model)))
    if not stands_in or (is_large(model) and evaluation is None):
        return None
    return _stand_in(model, options.data_free, selects, evaluation)


def all_rows(model: ModelProto, options: DataOptions) -> Data | None:
    """All samples undivided, for comparisons to which nothing is fitted.

    Args:
        model: The float model.
        options: Where data is read from.

    Returns:
        The user's samples, else proxy inputs, else noise; None where the model does not run on these.

    Raises:
        DataError: The user's samples do not fit the model.
    """
    if options.data is not None:
        return _read(model, options.data, options, options.labels)
    session = Session(model)
    if _too_large(model):
        return None
    proxies = None if options.data_free else proxy_data(model, session)
    return usable_data(session, model) if proxies is None else proxies


def _stand_in(model: ModelProto, data_free: bool, selects: bool, evaluation: Data | None) -> DataSplit | None:
    if _too_large(model):
        return None
    try:
        session = Session(model)
    except RuntimeFailure:
        return None
    proxies = None if data_free else proxy_data(model, session)
    if proxies is not None:
        decoder = decoder_of(model, encoded=True)
        return split_of_kinds(session, proxies, selects, evaluation, is_second=_kind(decoder))
    noise = usable_data(session, model)
    if evaluation is None:
        return None if noise is None else undivided(noise)
    noise = noise or Data(feeds=(), labels=None, origin="noise", name="rows of noise")
    return split_data(session, noise, False, evaluation)


_MOST_GENERATED = 1 << 27
"""Values of an input of fixed size beyond which none is generated: 512 MB in float32."""


def _too_large(model: ModelProto) -> bool:
    """Whether an input has a fixed size that no sample is generated for."""
    fixed = ((d for d in one.dims or () if isinstance(d, int)) for one in model_inputs(model))
    return any(math.prod(sizes) > _MOST_GENERATED for sizes in fixed)


def _kind(decoder: Decoder | None) -> Callable[[Feed], bool] | None:
    """Tells batches behind a cache from those without."""
    return None if decoder is None else decoder.is_step


def _read(model: ModelProto, given: Rows, options: DataOptions, labels: Labels | None) -> Data:
    """The user's samples. Raises DataError."""
    inputs, decoder = model_inputs(model), decoder_of(model)
    if decoder is None:
        if options.tokenizer is not None:
            raise DataError("--tokenizer needs a model that reads token ids, and all of whose inputs follow from them")
        return data_of(given, labels, inputs) if isinstance(given, tuple) else load_data(given, labels, inputs)

    def complete(source: object, arrays: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        made = completed(source, arrays, decoder, options.sequence_length)
        whole = made[0] is arrays or labels is not None or not decoder.branches
        return made if whole else with_steps(decoder, model, made)

    if isinstance(given, tuple):
        return data_of(given, labels, inputs, complete)
    files = [] if options.tokenizer is None else text_files(given)
    if options.tokenizer is None or not files:
        return load_data(given, labels, inputs, complete)
    texts = [cut(ids, decoder, options.sequence_length) for ids in token_ids(files, options.tokenizer)]
    rows = [row for text in texts for row in text]
    return data_of([{f"{decoder.tokens.name}.{k}": row for k, row in enumerate(rows)}], labels, inputs, complete)
