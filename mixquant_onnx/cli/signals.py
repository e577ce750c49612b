"""Handling of signals that stop a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def told_if_written(output: Path) -> Iterator[None]:
    """Give a KeyboardInterrupt within the context a message where the output is written already.

    Args:
        output: The file.

    Raises:
        KeyboardInterrupt: As within; with a message if the file is another one than it was.
    """
    before = _identity(output)
    try:
        yield
    except KeyboardInterrupt as stop:
        if _identity(output) != before:
            raise KeyboardInterrupt(f"{output} is written") from stop
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that replaces it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stoppable(grace: float = 2.0) -> Iterator[None]:
    """Turn signals to stop into a KeyboardInterrupt within the context, so that temporary files are removed.

    Signals that were ignored (nohup) still are.

    Args:
        grace: Seconds in which further signals are dropped, so that the cleanup is not interrupted.
    """
    last = -float("inf")

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last > grace:
            last = time.monotonic()
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    kept = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        for number in kept:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
