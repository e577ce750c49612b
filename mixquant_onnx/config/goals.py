"""Goals of a run: one of them decides how many bits there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixquant_onnx.errors import OptionError

GOALS: Mapping[str, tuple[str, ...]] = {
    "qem": (),
    "avg_bits": (),
    "max_size": (),
    "max_drop": ("metric", "metric_key", "lower_is_better", "metric_timeout"),
    "min_sqnr": (),
    "min_agreement": (),
    "max_kl": (),
}
"""By the keyword of a goal, the keywords that belong to it alone."""


def goals_in(given: Mapping[str, Any]) -> list[str]:
    """The goals among options.

    Args:
        given: Options by keyword; None is as good as missing.

    Returns:
        Keywords, in the order of `GOALS`.
    """
    return [name for name in GOALS if given.get(name) is not None]


def check_goals(given: Mapping[str, Any]) -> None:
    """Check that there is one goal at most.

    Args:
        given: Options by keyword, without defaults.

    Raises:
        OptionError: There are several.
    """
    found = [flag_of(name) for name in goals_in(given)]
    if len(found) > 1:
        raise OptionError(f"{', '.join(found[:-1])} and {found[-1]} exclude each other; give one")


def flag_of(goal: str) -> str:
    """The name of a goal on the command line."""
    return "--" + goal.replace("_", "-")


def overridden(kept: Mapping[str, Any], goals: list[str]) -> dict[str, Any]:
    """Options of a file where others set the goal: what belongs to another goal is left out.

    Args:
        kept: Options of the file, by keyword.
        goals: Goals that are given elsewhere; empty where a run takes none.

    Returns:
        The options of the file without its goal, and without what belongs to that goal alone.
    """
    lost = {name for goal, others in GOALS.items() for name in (goal, *(() if goal in goals else others))}
    return {name: value for name, value in kept.items() if name not in lost}
