"""The exceptions of the package, one exit code a class.

MixquantError            1  anything below, caught by callers who do not care which
├── OptionError          2  a value that an option does not take
├── ModelError           3  the input is missing, truncated, not ONNX, or not runnable
├── OutputError          4  the output cannot be written
├── PlanError            5  a plan that does not fit the model
├── DataError            6  evaluation data that does not fit the model
├── UnchangedError       7  nothing was quantized
├── ProofError           8  the written model failed its proof and was removed
├── PromiseError         9  no plan keeps what was promised
└── MetricError         10  the user's measure failed, hung, or gave no number
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MixquantError(Exception):
    """Base of every error that is the user's to act on. The message is one line."""

    exit_code = 1


class OptionError(MixquantError):
    exit_code = 2


class ModelError(MixquantError):
    exit_code = 3


class OutputError(MixquantError):
    exit_code = 4


class PlanError(MixquantError):
    exit_code = 5


class DataError(MixquantError):
    exit_code = 6


class UnchangedError(MixquantError):
    exit_code = 7


class ProofError(MixquantError):
    exit_code = 8


class PromiseError(MixquantError):
    exit_code = 9


class MetricError(MixquantError):
    exit_code = 10


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """An OSError inside becomes the OutputError of `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the folder") from error


def check_folder(path: Path) -> None:
    """Makes the folder `path` where it is not there. Raises OutputError where nothing can be written into it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: is not writable; choose another folder")


def first_line(error: Exception, most: int = 300) -> str:
    """The first line of an error's message that is not blank, cut to `most` characters; without one, its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:most] if lines else type(error).__name__
