"""Whether a quality, or the value of a metric, meets the accuracy target."""

from __future__ import annotations

from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import DataError
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import Share
from mixquant_onnx.verification.token_quality import TokenQuality

Judged = tuple[bool, float, str]
"""Whether the target is met; the score, higher is better; a description."""


def judge_value(value: float, reference: float, target: AccuracyOptions) -> Judged:
    """Judge the value of the user's metric.

    Args:
        value: Of the quantized model.
        reference: Of the float model.
        target: The accuracy target, with `max_drop`.

    Returns:
        The judgement.
    """
    assert target.max_drop is not None
    loss = (value - reference) if target.lower_is_better else (reference - value)
    return loss <= target.max_drop * abs(reference), -loss, f"value {value:.5g}"


def judge_quality(quality: Quality | None, float_accuracy: float | None, target: AccuracyOptions) -> Judged:
    """Judge outputs on the samples for evaluation.

    Args:
        quality: Of the quantized model; None where the float model does not run.
        float_accuracy: Of the float model; None without labels.
        target: The accuracy target.

    Returns:
        The judgement.

    Raises:
        DataError: The target cannot be judged on these samples.
    """
    if quality is None:
        raise DataError("the accuracy target cannot be judged: the float model does not run here")
    if target.max_drop is not None:
        return _accuracy(quality, float_accuracy, target.max_drop)
    if target.min_agreement is not None:
        agreement = quality.agreement
        if agreement is None:
            raise DataError("--min-agreement needs an output of classes or labels, this model has none; use --min-sqnr")
        return agreement.value >= target.min_agreement, agreement.value, f"agreement {share_words(agreement)}"
    if target.max_kl is not None:
        return _divergence(quality.tokens, target.max_kl)
    assert target.min_sqnr is not None
    ratio = quality.sqnr_db
    if ratio is None:
        raise DataError("--min-sqnr: no output holds numbers to compare in dB; use --min-agreement or --metric-command")
    return ratio >= target.min_sqnr, ratio, _sqnr_words(quality)


def _accuracy(quality: Quality, float_accuracy: float | None, max_drop: float) -> Judged:
    if quality.accuracy is None or float_accuracy is None:
        raise DataError("--max-drop needs labels: --labels FILE, labels in --data, or --metric-command")
    if float_accuracy == 0:
        raise DataError("the float model gets none of the labels held back right; check that they are its classes")
    kept = quality.accuracy >= float_accuracy * (1 - max_drop)
    share = quality.accuracy_share
    told = f"{quality.accuracy:.2%}" if share is None else share_words(share)
    return kept, quality.accuracy, f"accuracy {told}, float {float_accuracy:.2%}"


def _divergence(tokens: TokenQuality | None, most: float) -> Judged:
    if tokens is None:
        raise DataError(NO_TOKENS)
    error = "" if tokens.kl.error is None else f" ± {tokens.kl.error:.1g}"
    told = f"KL {tokens.kl.value:.3g}{error} nats a token, {tokens.tokens} tokens in {tokens.sequences} sequences"
    return tokens.kl.value <= most, -tokens.kl.value, told


NO_TOKENS = (
    "--max-kl needs a model that reads token ids and gives logits [..., vocabulary]; use --min-agreement or --min-sqnr"
)
"""Why the divergence of the next token is not known."""


def share_words(share: Share) -> str:
    """A share as text, with its count and its 95 % interval: `96.00%, 96 of 100 (90.2-98.4 %)`."""
    return f"{share.value:.2%}, {share.hits} of {share.count} ({100 * share.low:.1f}-{100 * share.high:.1f} %)"


def _sqnr_words(quality: Quality) -> str:
    if quality.invalid:
        return f"NaN in output '{quality.invalid[0].name}'"
    if quality.changed_shapes:
        return f"output '{quality.changed_shapes[0].name}' has another shape than float's"
    return f"{quality.sqnr_db:.1f} dB"
