"""Progress reports of a run."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total): the name of the stage, and how many of its steps are done."""


def quiet(stage: str, done: int, total: int) -> None:
    """A `Progress` that reports nothing."""
