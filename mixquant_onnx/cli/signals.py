"""What the commands share: errors of arguments in one line, being stopped, and files of text."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixquant_onnx.errors import OptionError, writing


class Parser(argparse.ArgumentParser):
    """Raises OptionError where argparse would print its usage and end."""

    def error(self, message: str) -> Any:
        raise OptionError(f"{message}; see mixquant-onnx --help")


_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stoppable(grace: float = 2.0) -> Iterator[None]:
    """Signals to stop are a KeyboardInterrupt inside, so that what is half done is cleaned up.

    More of them within `grace` seconds are one: cleaning is not interrupted. What was ignored (nohup) still is.
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


def write_text(path: Path, text: str) -> None:
    """Raises OutputError."""
    with writing(path):
        path.write_text(text, encoding="utf8")
