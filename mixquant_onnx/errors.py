"""The exceptions of the package, one exit code per class.

MixquantError            1  base class, for callers that handle all of them alike
├── OptionError          2  a value that an option does not take
├── ModelError           3  the input is missing, truncated, not ONNX, or not runnable
├── OutputError          4  the output cannot be written
├── PlanError            5  a plan that does not fit the model
├── DataError            6  evaluation data that does not fit the model
├── UnchangedError       7  nothing was quantized
├── ProofError           8  the written model failed verification and was removed
├── PromiseError         9  no plan meets the accuracy target, or the limit of time
└── MetricError         10  the user's metric failed, timed out, or gave no number
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class MixquantError(Exception):
    """Base of every error that the user can act on. The message is one line."""

    exit_code = 1


class OptionError(MixquantError):
    """A value that an option does not take."""

    exit_code = 2


class ModelError(MixquantError):
    """The input is missing, truncated, not ONNX, or not runnable."""

    exit_code = 3


class OutputError(MixquantError):
    """The output cannot be written."""

    exit_code = 4


class PlanError(MixquantError):
    """A plan or a scheme that cannot be parsed, or does not fit the model."""

    exit_code = 5


class DataError(MixquantError):
    """Calibration or evaluation data that does not fit the model."""

    exit_code = 6


class UnchangedError(MixquantError):
    """Nothing was quantized."""

    exit_code = 7


class ProofError(MixquantError):
    """The written model failed verification and was removed."""

    exit_code = 8


class PromiseError(MixquantError):
    """No plan meets the accuracy target."""

    exit_code = 9


class SlowError(PromiseError):
    """The written model takes longer than was allowed (--max-ms)."""


class MetricError(MixquantError):
    """The user's metric failed, timed out, or gave no number."""

    exit_code = 10


def check_choice(flag: str, value: object, choices: Iterable[str]) -> None:
    """Check that an option has one of its values.

    Args:
        flag: Name of the option.
        value: What was given.
        choices: What it takes.

    Raises:
        OptionError: It is none of these; the message lists them.
    """
    known = list(choices)
    if value not in known:
        raise OptionError(f"{flag} '{value}' is not known; use {', '.join(known[:-1])} or {known[-1]}")


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Turn an OSError raised inside the context into an OutputError of `path`.

    Args:
        path: The file that is written.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the folder") from error


def check_folder(path: Path) -> None:
    """Create the folder `path` where it does not exist.

    Args:
        path: The folder.

    Raises:
        OutputError: The folder cannot be created, or is not writable.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: is not writable; choose another folder")


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Args:
        count: The number.
        one: What follows 1, such as "weight is".
        many: What follows other numbers, such as "weights are"; empty for `one` and an s.

    Returns:
        Such as "1 weight is".
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def first_line(error: Exception, most: int = 300) -> str:
    """The first line of an error's message that is not blank.

    Args:
        error: The exception.
        most: Largest number of characters.

    Returns:
        The line, cut to `most` characters; the name of the exception's class where the message is empty.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:most] if lines else type(error).__name__
