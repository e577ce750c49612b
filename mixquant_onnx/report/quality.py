"""The quality of outputs as plain data."""

from __future__ import annotations

from typing import TypedDict

from mixquant_onnx.report.formats import finite
from mixquant_onnx.report.tokens import TokenData, token_data
from mixquant_onnx.verification.quality import OutputQuality, Quality
from mixquant_onnx.verification.quality import Part as PartQuality
from mixquant_onnx.verification.statistics import Share

Interval = list[float]
"""Lower and upper end of a 95 % interval, from 0 to 1."""


class ShareData(TypedDict):
    """A share with its interval. `share` is null for too few rows to report one."""

    share: float | None
    hits: int
    count: int
    rows: int
    interval: Interval


class PartData(TypedDict):
    """A part of an output (`verification.quality.Part`). Infinite numbers are "inf" and "-inf"."""

    slices: str
    sqnr_db: float | str | None
    peak: float
    largest_change: float | str | None
    scores_over_half: ShareData | None


class OutputData(TypedDict):
    """An output of the model. `decisions`: "top-1", "values", or null where it holds none. `nan`: number of NaN."""

    name: str
    sqnr_db: float | str | None
    decisions: str | None
    agreement: ShareData | None
    changed_shapes: int
    feeds: int
    nan: int
    parts: list[PartData]


class QualityData(TypedDict):
    """The outputs under one profile of the runtime.

    `sqnr_db` is null where no output is numeric. `top1_agreement` is null without classes, and for few samples that are
    not the user's. `tokens` is null where the model gives no distribution of a next token.
    """

    profile: str
    sqnr_db: float | str | None
    mean_sqnr_db: float | str | None
    cosine: float | None
    top1_agreement: float | None
    agreement: ShareData | None
    accuracy: float | None
    accuracy_interval: Interval | None
    tokens: TokenData | None
    outputs: list[OutputData]


def quality_data(quality: Quality, own: bool) -> QualityData:
    """The quality of outputs as plain data.

    Args:
        quality: The outputs under one profile.
        own: Whether the samples are the user's.

    Returns:
        Values that JSON has.
    """
    reported = quality.agreement is not None and (own or not quality.agreement.few)
    return {
        "profile": quality.profile,
        "sqnr_db": finite(quality.sqnr_db),
        "mean_sqnr_db": finite(quality.mean_sqnr_db),
        "cosine": quality.cosine,
        "top1_agreement": quality.top1_agreement if reported else None,
        "agreement": _share(quality.agreement),
        "accuracy": quality.accuracy,
        "accuracy_interval": interval(quality.accuracy_share),
        "tokens": token_data(quality.tokens),
        "outputs": [_output(output) for output in quality.outputs],
    }


def interval(share: Share | None) -> Interval | None:
    """The 95 % interval of a share; None stays None."""
    return None if share is None else [share.low, share.high]


def _output(output: OutputQuality) -> OutputData:
    return {
        "name": output.name,
        "sqnr_db": finite(output.sqnr_db),
        "decisions": output.what or None,
        "agreement": _share(output.decisions),
        "changed_shapes": output.changed_shapes,
        "feeds": output.feeds,
        "nan": output.invalid,
        "parts": [_part(part) for part in output.parts],
    }


def _part(part: PartQuality) -> PartData:
    return {
        "slices": part.slices,
        "sqnr_db": finite(part.sqnr_db),
        "peak": part.peak,
        "largest_change": finite(part.largest_change),
        "scores_over_half": _share(part.scores),
    }


def _share(share: Share | None) -> ShareData | None:
    if share is None:
        return None
    value = None if share.few or not share.count else share.value
    ends = [share.low, share.high]
    return {"share": value, "hits": share.hits, "count": share.count, "rows": share.rows, "interval": ends}
