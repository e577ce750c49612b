"""When the outputs of a model with rounded activations are good enough for all its layers to run on integers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mixquant_onnx.config.stages import AccuracyOptions

GOOD_NOISE = 10**-2.4
"""Noise-to-signal ratio of the outputs (24 dB), with float weights, that is good enough: models that near lose at most
0.5 points (docs/research/activations.md)."""

GOOD_AGREEMENT = 0.995
"""Share of equal decisions that is good enough too."""

_STRICTER = 4.0
"""By what the noise, and the share of unequal decisions, are divided when an accuracy target was missed: 6 dB."""

_FOR_WEIGHTS = 2.0
"""By what the noise that a target allows is divided: the other half is for the weights."""

_MOST_TIME = 0.3
"""Share of the time that integers save that is given up, where no accuracy target is set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardGoal:
    """When the outputs of a model with rounded activations are good enough.

    Attributes:
        noise: Noise-to-signal ratio.
        agreement: Share of equal decisions, which is good enough alone; None where only noise counts.
        most_time: Share of the time that integers save which may be given up.
        layers: The layers that stay in float, where they are known.
    """

    noise: float = field(default_factory=lambda: GOOD_NOISE)
    agreement: float | None = field(default_factory=lambda: GOOD_AGREEMENT)
    most_time: float = field(default_factory=lambda: _MOST_TIME)
    layers: tuple[str, ...] | None = None


def guard_goal(target: AccuracyOptions) -> GuardGoal:
    """The goal for an accuracy target.

    Args:
        target: The target; perhaps none.

    Returns:
        The goal: with a target, any layer may go back to float.
    """
    if not target.wanted:
        return GuardGoal()
    noise, agreement = GOOD_NOISE, None if target.min_sqnr is not None else GOOD_AGREEMENT
    if target.min_sqnr is not None:
        noise = min(noise, 10 ** (-target.min_sqnr / 10) / _FOR_WEIGHTS)
    if target.min_agreement is not None:
        agreement = max(GOOD_AGREEMENT, 1 - (1 - target.min_agreement) / _FOR_WEIGHTS)
    return GuardGoal(noise=noise, agreement=agreement, most_time=1.0)


def stricter(goal: GuardGoal) -> GuardGoal:
    """The goal after an accuracy target was missed.

    Args:
        goal: The goal before.

    Returns:
        One with less noise.
    """
    agreement = None if goal.agreement is None else 1 - (1 - goal.agreement) / _STRICTER
    return replace(goal, noise=goal.noise / _STRICTER, agreement=agreement)


def quicker(goal: GuardGoal) -> GuardGoal:
    """The goal after a limit of time was missed.

    Args:
        goal: The goal before.

    Returns:
        One by which less of the time is given up; in the end none.
    """
    return replace(goal, most_time=goal.most_time / 3 if goal.most_time > 0.1 else 0.0)
