"""A line on stderr that shows how far a run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from mixquant_onnx.cli.stages import Command
    from mixquant_onnx.job import Job

_MOST_COUNTED = 9999
"""Steps up to which they are counted; more are a percentage."""

_FIRST_OF_TRIAL = "quantize"
"""The stage with which each trial for an accuracy target begins."""


class ProgressLine:
    """A `Progress` that describes itself in a line, such as `3/6 measure layers  12/46  0:08 left`.

    Args:
        clock: Seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._counted = "read data", ""
        self._end: float | None = None
        self.expect(())

    def opened(self, command: Command) -> Callable[[Job], None]:
        """A function that tells the line of a job, once it has its samples.

        Args:
            command: What runs.

        Returns:
            The function.
        """
        from mixquant_onnx.cli.stages import stages_of

        def expect(job: Job) -> None:
            stages = stages_of(job.config, command, job.work.origin, job.method)
            self.expect(stages, trials=job.config.accuracy.wanted)

        return expect

    def expect(self, stages: Sequence[str], trials: bool = False) -> None:
        """Tell what is to come.

        Args:
            stages: The stages of the run, as `stages_of` gives them.
            trials: Whether the last stages are repeated, so that nobody knows how long that takes.
        """
        from mixquant_onnx.cli.stages import TimeLeft

        self._stages, self._trials, self._trial = list(stages), trials, 0
        self._left, self._start = TimeLeft(() if trials else stages), self._clock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note a report of progress."""
        name, before = _name(stage), _name(self._stage)
        if self._trials and name == _FIRST_OF_TRIAL != before:
            self._trial += 1
        self._stage = stage
        self._counted = f"{done}/{total}" if total <= _MOST_COUNTED else f"{100 * done // total} %"
        now = self._clock()
        left = self._left.after(name, done, total, now - self._start)
        self._end = None if left is None else now + left

    def __str__(self) -> str:
        name = _name(self._stage)
        place = f"{self._stages.index(name) + 1}/{len(self._stages)} " if name in self._stages else ""
        parts = [f"{place}{self._stage}", self._counted]
        if self._trial:
            parts.append(f"trial {self._trial}")
        elif self._end is not None:
            parts.append(f"{_clock_time(self._end - self._clock())} left")
        return "  ".join(part for part in parts if part)

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(str(self), no_wrap=True, overflow="ellipsis")


def _name(stage: str) -> str:
    """A stage without what it says of its outcome."""
    return stage.partition(":")[0]


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(max(round(seconds), 1), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


@contextmanager
def progress_bar() -> Iterator[ProgressLine]:
    """Show a line of progress within the context; nothing is drawn where stderr is not a terminal.

    Yields:
        The callback that reports progress.
    """
    from rich.console import Console
    from rich.live import Live

    console, line = Console(stderr=True), ProgressLine()
    if not console.is_terminal:
        yield line
        return
    # What a run prints goes above the line only where both are on a terminal; a file keeps getting it.
    with Live(line, console=console, transient=True, refresh_per_second=4, redirect_stdout=sys.stdout.isatty()):
        yield line
