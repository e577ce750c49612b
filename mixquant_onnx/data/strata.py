"""A split of samples of two kinds, such as texts and tokens behind a cache: each part has its share of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, DataSplit
from mixquant_onnx.data.split import FEWEST_ROWS, SHARE, split_data
from mixquant_onnx.runtime.session import Feed, Session


def split_of_kinds(
    model: ModelProto | Session,
    data: Data,
    wants_selection: bool,
    evaluation: Data | None = None,
    share: int = SHARE,
    is_second: Callable[[Feed], bool] | None = None,
) -> DataSplit:
    """Split samples as `split_data` does, those of each kind by themselves.

    Args:
        model: The float model.
        data: The samples.
        wants_selection: Whether a part is needed for selection.
        evaluation: The user's own samples for evaluation; None if there are none.
        share: One of this many samples is for evaluation, and a few at least.
        is_second: Tells the two kinds of batches apart; None where all are alike.

    Returns:
        The parts.

    Raises:
        DataError: The number of labels does not fit the number of samples.
    """
    kinds = [bool(is_second and is_second(feed)) for feed in data.feeds]
    if data.labels is not None or len(set(kinds)) < 2:
        return split_data(model, data, wants_selection, evaluation, share)
    first, second = (
        replace(data, feeds=tuple(f for f, k in zip(data.feeds, kinds, strict=True) if k == wanted))
        for wanted in (False, True)
    )
    few = _FEWEST if first.rows + second.rows >= FEWEST_ROWS else FEWEST_ROWS
    one, other = (split_data(model, kind, wants_selection, evaluation, share, few) for kind in (first, second))
    return DataSplit(
        calibration=_joined(one.calibration, other.calibration),
        selection=_joined(one.selection, other.selection),
        fitting=_joined(one.fitting, other.fitting),
        evaluation=one.evaluation if evaluation is not None else _joined(one.evaluation, other.evaluation),
        in_sample=one.in_sample or other.in_sample,
        reason=one.reason or other.reason,
    )


_FEWEST = 4
"""Fewest samples of one kind of which one is held out, where there are enough of both together."""


def _joined(one: Data, other: Data) -> Data:
    axes = one.axes if one.axes == other.axes else None
    return replace(one, feeds=(*one.feeds, *other.feeds), axes=axes)
