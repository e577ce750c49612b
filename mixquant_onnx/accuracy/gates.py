"""Gates for a build: whether a model may stand for another one, from a comparison of both."""

from __future__ import annotations

from mixquant_onnx.accuracy.target import judge_quality
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import OptionError, PromiseError, ProofError, SlowError
from mixquant_onnx.verification.benchmark import is_slower
from mixquant_onnx.verification.comparison import Comparison
from mixquant_onnx.verification.latency import text_of
from mixquant_onnx.verification.statistics import FEW_ROWS

_CHANCE = 0.5
"""A share of equal decisions that is below this with 95 % confidence is called chance."""


def check_gates(found: Comparison, target: AccuracyOptions, max_slower: str | None) -> None:
    """Check a comparison.

    Args:
        found: The comparison.
        target: The least quality; perhaps none is asked for.
        max_slower: Most time with one thread, such as `1.05x` of the first model's; None for any.

    Raises:
        ProofError: The second model's outputs have nothing to do with the first one's, whether or not that was asked.
        PromiseError: The quality is too low, or the time too long.
        DataError: The target cannot be judged on these samples.
        OptionError: A limit of time without a measurement.
    """
    _check_chance(found)
    if target.wanted:
        float_accuracy = None if found.float_accuracy is None else found.float_accuracy.value
        kept, _, words = judge_quality(found.quality, float_accuracy, target)
        if not kept:
            raise PromiseError(f"the second model does not reach the accuracy target: {words}")
    if max_slower is not None:
        if not found.times:
            raise OptionError("--max-slower needs times; leave --no-benchmark out")
        if is_slower(found.times[0], max_slower):
            raise SlowError(f"--max-slower {max_slower} is not kept: {text_of(found.times[:1])}")


def _check_chance(found: Comparison) -> None:
    """Raise ProofError where the noise of the outputs is as large as the signal, or decisions are mostly others."""
    ratio, share = found.quality.sqnr_db, found.quality.agreement
    if share is not None and share.count >= FEW_ROWS and share.high < _CHANCE:
        raise ProofError(
            f"the second model answers otherwise: {share.hits} of {share.count} decisions are the first one's"
        )
    if ratio is not None and ratio <= 0 and (share is None or share.value < 1):
        words = "another shape or NaN" if ratio == -float("inf") else f"{ratio:.1f} dB"
        raise ProofError(f"the second model's outputs have nothing to do with the first one's ({words})")
