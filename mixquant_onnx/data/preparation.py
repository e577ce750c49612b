"""The samples of a run, read or generated once and split once."""

from __future__ import annotations

import math

from onnx import ModelProto

from mixquant_onnx.config.parsing import Labels, Rows
from mixquant_onnx.config.stages import DataOptions
from mixquant_onnx.data.dataset import Data, DataSplit, undivided
from mixquant_onnx.data.files import data_of, load_data
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.data.split import PROMISE_SHARE, SHARE, split_data
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.runtime.session import RuntimeFailure, Session


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
        The parts; None where there are no samples, or the model does not run on those that were generated.

    Raises:
        DataError: The user's samples do not fit the model.
    """
    evaluation = None if options.eval_data is None else _read(model, options.eval_data, None)
    if options.data is not None:
        given = _read(model, options.data, options.labels)
        return split_data(model, given, selects, evaluation, PROMISE_SHARE if judges else SHARE)
    return _stand_in(model, options.data_free, selects, evaluation) if stands_in else None


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
        return _read(model, options.data, options.labels)
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
        return split_data(session, proxies, selects, evaluation)
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


def _read(model: ModelProto, given: Rows, labels: Labels | None) -> Data:
    inputs = model_inputs(model)
    return data_of(given, labels, inputs) if isinstance(given, tuple) else load_data(given, labels, inputs)
