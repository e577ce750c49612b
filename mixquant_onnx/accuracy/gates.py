"""Gates for a build: whether a model may stand for another one, from a comparison of both."""

from __future__ import annotations

from collections.abc import Mapping

from mixquant_onnx.accuracy.target import judge_quality
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import OptionError, ProofError
from mixquant_onnx.verification.benchmark import is_slower
from mixquant_onnx.verification.comparison import Comparison, Limit
from mixquant_onnx.verification.latency import text_of
from mixquant_onnx.verification.statistics import FEW_ROWS

_CHANCE = 0.5
"""A share of equal decisions that is below this with 95 % confidence is called chance."""


def judged(found: Comparison, targets: Mapping[str, AccuracyOptions], max_slower: str | None) -> tuple[Limit, ...]:
    """Compare what was found with limits.

    Args:
        found: The comparison.
        targets: Accuracy targets by what to call them, such as `--min-sqnr 40`.
        max_slower: Most time with one thread, such as `1.05x` of the first model's; None for any.

    Returns:
        Each limit, and whether it is kept.

    Raises:
        DataError: A target cannot be judged on these samples.
        OptionError: A limit of time without a measurement.
    """
    float_accuracy = None if found.float_accuracy is None else found.float_accuracy.value
    limits = []
    for name, target in targets.items():
        kept, _, words = judge_quality(found.quality, float_accuracy, target)
        limits.append(Limit(limit=name, value=words, kept=kept))
    if max_slower is not None:
        if not found.times:
            raise OptionError("--max-slower needs times; leave --no-benchmark out")
        kept = not is_slower(found.times[0], max_slower)
        limits.append(Limit(limit=f"--max-slower {max_slower}", value=_time(found), kept=kept))
    return tuple(limits)


def _time(found: Comparison) -> str:
    """The time, and the spread where there are several rounds."""
    text = text_of(found.times[:1])
    if len(found.rounds) < 2:
        return text
    ratios = [one.ratio for one in found.rounds]
    return f"{text}, {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds"


def check_chance(found: Comparison) -> None:
    """Check that a model's answers are no chance.

    Args:
        found: The comparison.

    Raises:
        ProofError: The noise of the outputs is as large as the signal, or decisions are mostly others.
    """
    ratio, share = found.quality.sqnr_db, found.quality.agreement
    if share is not None and share.count >= FEW_ROWS and share.high < _CHANCE:
        raise ProofError(
            f"the second model answers otherwise: {share.hits} of {share.count} decisions are the first one's"
        )
    if ratio is not None and ratio <= 0 and (share is None or share.value < 1):
        words = "another shape or NaN" if ratio == -float("inf") else f"{ratio:.1f} dB"
        raise ProofError(f"the second model's outputs have nothing to do with the first one's ({words})")
