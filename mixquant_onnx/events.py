"""How a run tells where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""


def quiet(stage: str, done: int, total: int) -> None:
    return None
