"""Warnings: where quality is at risk, each a line with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from mixquant_onnx.config.stages import AccuracyOptions, BudgetOptions
from mixquant_onnx.verification.quality import OutputQuality, Quality
from mixquant_onnx.verification.statistics import Share

LOW_DB = 20.0
"""SQNR in dB below which depthwise, recurrent and detection networks lost 2 % and more; many other networks did not."""

MOST_LOST = 0.02
"""Loss of decisions, or of the float accuracy, as a share, above which there is a warning."""

Origin = Literal["user", "proxy", "noise"]

MORE_BITS = "allow more bits (a lower --qem, --bits 8)"
EDIT_PLAN = "give weights more bits in the plan"
_MORE_FLOAT = "keep more layers in float (the goal --min-sqnr 25)"

_JUDGE = "judge with --data (a few dozen inputs of yours)"


def advice_of(budget: BudgetOptions, target: AccuracyOptions) -> str:
    """What to do where quality is low, by the goal of the run.

    Args:
        budget: How many bits there are.
        target: The accuracy target; perhaps none.

    Returns:
        A clause.
    """
    if target.max_drop is not None:
        return f"set a stricter target (--max-drop below {target.max_drop:.4g})"
    if target.min_agreement is not None:
        return f"set a stricter target (--min-agreement above {target.min_agreement:.4g}, or --min-sqnr)"
    if target.min_sqnr is not None:
        return f"set a stricter target (--min-sqnr above {target.min_sqnr:.4g})"
    if target.max_kl is not None:
        return f"set a stricter target (--max-kl below {target.max_kl:.4g})"
    if budget.avg_bits is not None:
        return f"allow more bits (--avg-bits above {budget.avg_bits:.4g})"
    return MORE_BITS if budget.max_size is None else f"allow a larger file (--max-size above {budget.max_size})"


def on_integers(advice: str) -> str:
    """What to do where layers run on integers.

    Args:
        advice: What to do for weights alone.

    Returns:
        A clause: a stricter target also keeps layers in float, another goal does not.
    """
    return f"{advice if 'target' in advice else _MORE_FLOAT}, or leave --activations out"


def warnings_of(
    quality: Sequence[Quality], float_accuracy: Share | None, origin: Origin | None, advice: str = MORE_BITS
) -> tuple[str, ...]:
    """The warnings of a written model, one line each.

    Args:
        quality: Its outputs compared with the float model's, for each profile. Low quality is that of the worst
            profile.
        float_accuracy: Top-1 accuracy of the float model, where there are labels.
        origin: Where the samples come from; None where there were none.
        advice: What to do.

    Returns:
        Distinct lines.
    """
    if not quality or origin is None:
        return ()
    worst = min(quality, key=_order)
    return tuple(dict.fromkeys([*_broken(quality, advice), *_low(worst, float_accuracy, origin, advice)]))


def _order(quality: Quality) -> float:
    """SQNR in dB; infinite where there is none."""
    return float("inf") if quality.sqnr_db is None else quality.sqnr_db


def _broken(quality: Sequence[Quality], advice: str) -> Iterator[str]:
    """Outputs that are NaN, or have other shapes, in any profile."""
    for one in quality:
        for output in one.invalid:
            yield f"output '{output.name}' has NaN where float has none; {advice}, or --exclude the layers in front"
        if one.changed_shapes:
            names = ", ".join(f"'{output.name}'" for output in one.changed_shapes)
            most = max(one.changed_shapes, key=lambda output: output.changed_shapes)
            yield (
                f"the shape of {names} differs from float's for up to {most.changed_shapes} of {most.feeds} inputs, "
                "which are not compared in dB: judge with your own metric (--metric-command)"
            )


def _low(worst: Quality, float_accuracy: Share | None, origin: Origin, advice: str) -> Iterator[str]:
    """Low accuracy where there are labels, else changed decisions where there are enough, else a low SQNR."""
    where = {"user": "your data", "proxy": "proxy inputs", "noise": "noise"}[origin]
    to_do = f"; {advice}" if origin == "user" else f"; {_JUDGE}, or {advice}"
    if worst.accuracy is not None and float_accuracy is not None and float_accuracy.value > 0:
        if worst.accuracy < float_accuracy.value * (1 - MOST_LOST):
            yield f"quality is at risk: accuracy {worst.accuracy:.1%}, float {float_accuracy.value:.1%}{to_do}"
        return
    agreement = worst.agreement
    told = agreement is not None and not agreement.few and origin != "noise"
    if agreement is not None and told:
        if agreement.value < 1 - MOST_LOST:
            yield f"quality is at risk: {1 - agreement.value:.1%} of decisions change on {where}{to_do}"
        return
    low = [o for o in worst.outputs if o.sqnr_db is not None and -float("inf") < o.sqnr_db < LOW_DB]
    low = [o for o in low if not _few_change(o)]
    if low:
        output = min(low, key=lambda o: o.sqnr_db or 0.0)
        what = "not known" if origin == "noise" else "at risk"
        yield f"quality is {what}: output '{output.name}' has {output.sqnr_db:.1f} dB on {where}{to_do}"


def _few_change(output: OutputQuality) -> bool:
    """Whether the SQNR is low although nearly all scores above the threshold stay above it."""
    low = [part for part in output.parts if part.sqnr_db < LOW_DB]
    scores = [part.scores for part in low]
    return all(s is not None and not s.few and s.count > 0 and s.value >= 1 - MOST_LOST for s in scores)
