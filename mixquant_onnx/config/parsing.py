"""Conversion of option values, given as text or as Python values. All functions raise OptionError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixquant_onnx.errors import OptionError
from mixquant_onnx.numerics.granularity import ALL_BITS, AUTO_GRIDS, Granularity

Rows = Path | tuple[Mapping[str, Any], ...]
"""Where samples are read from, or batches in memory: arrays by the name of the input."""


def widths(value: int | str | Sequence[int]) -> tuple[int, ...]:
    """Parse bit widths.

    Args:
        value: `2-8`, `4,8`, 4 or (4, 8).

    Returns:
        Distinct widths in ascending order.

    Raises:
        OptionError: There is none, or one is not from 2 to 8.
    """
    if isinstance(value, str):
        found = []
        for part in value.split(","):
            span = re.fullmatch(r"(\d)(?:-(\d))?", part.strip())
            if not span:
                raise OptionError(f"--bits '{value}' is not understood; write 2-8 or 4,8")
            found += list(range(int(span[1]), int(span[2] or span[1]) + 1))
    else:
        found = [value] if isinstance(value, int) else list(value)
    if not found or any(bits not in ALL_BITS for bits in found):
        raise OptionError("--bits takes widths from 2 to 8, such as 2-8 or 4,8")
    return tuple(sorted(set(found)))


def grids(value: str) -> tuple[Granularity, ...]:
    """Parse granularities.

    Args:
        value: `tensor`, `channel`, `block:N` or `auto`.

    Returns:
        One granularity, or those that `auto` chooses from.

    Raises:
        OptionError: The text is none of these.
    """
    return AUTO_GRIDS if value == "auto" else (Granularity.parse(value),)


def release(value: str | tuple[int, int]) -> tuple[int, int]:
    """Parse a release of onnxruntime.

    Args:
        value: `1.22`, or (1, 22).

    Returns:
        (major, minor).

    Raises:
        OptionError: It is not a release, or older than OLDEST_ORT.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)?", value)
        if not found:
            raise OptionError(f"--min-ort '{value}' is not a release; write for example 1.22")
        value = int(found[1]), int(found[2])
    if value < OLDEST_ORT:
        oldest = ".".join(map(str, OLDEST_ORT))
        raise OptionError(f"--min-ort goes back to {oldest}; older releases were not tried")
    return value


OLDEST_ORT = (1, 20)
"""The oldest onnxruntime on which files were tested (docs/research/releases.md)."""

FUSED_PAYS_FROM = (1, 25)
"""The first onnxruntime whose MatMulNBits fusion takes 8 bits and is not slower than float
(docs/research/releases.md)."""

SMALL_INTS_FROM = (1, 21)
"""The first onnxruntime with Add and Sub on 8-bit integers: smaller files that load faster
(docs/research/releases.md)."""


def share(flag: str) -> Callable[[Any], float | None]:
    """A converter for shares.

    Args:
        flag: Name of the option, for messages.

    Returns:
        Converts `1%` or 0.01 to a float; raises OptionError for other text. None stays None.
    """

    def convert(value: str | float | None) -> float | None:
        if value is None:
            return None
        try:
            if isinstance(value, str) and value.strip().endswith("%"):
                return float(value.strip()[:-1]) / 100
            return float(value)
        except ValueError as error:
            raise OptionError(f"{flag} '{value}' is no share; write for example 1% or 0.01") from error

    return convert


def size(value: str | int | None) -> str | None:
    """Check a file size.

    Args:
        value: Text such as `5MB` or `25%`, or bytes.

    Returns:
        The text; None stays None.

    Raises:
        OptionError: It is not a size.
    """
    if value is None:
        return None
    nbytes_of(str(value), 1)
    return str(value)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def nbytes_of(text: str, nbytes: int) -> int:
    """Bytes of a file size.

    Args:
        text: `5MB` (decimal) or `25%`.
        nbytes: What a percentage refers to, in bytes.

    Returns:
        Bytes.

    Raises:
        OptionError: It is not a size.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*(%|[kKmMgG]?[bB]?)\s*", text)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        raise OptionError(f"--max-size '{text}' is no size; write for example 5MB or 25%")
    return int(number / 100 * nbytes) if found[2] == "%" else int(number * _UNITS[found[2].upper().rstrip("B") + "B"])


def time_limit(value: str | float | None, flag: str = "--max-ms") -> str | None:
    """Check a limit of time.

    Args:
        value: Text such as `0.5x` (of float's time) or `12`, milliseconds; or milliseconds.
        flag: Name of the option, for the message.

    Returns:
        The text; None stays None.

    Raises:
        OptionError: It is no limit.
    """
    if value is None:
        return None
    milliseconds_of(str(value), 1.0, flag)
    return str(value)


def milliseconds_of(text: str, float_ms: float, flag: str = "--max-ms") -> float:
    """Milliseconds of a limit.

    Args:
        text: `0.5x` or `12`, with or without `ms`.
        float_ms: What `x` multiplies.
        flag: Name of the option, for the message.

    Returns:
        Milliseconds.

    Raises:
        OptionError: It is no limit.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*(x|ms)?\s*", text)
    limit = float(found[1]) if found else 0.0
    if not found or not 0 < limit < math.inf:
        raise OptionError(f"{flag} '{text}' is no limit; write for example 0.5x (of float's time) or 12 (milliseconds)")
    return limit * float_ms if found[2] == "x" else limit


def number(flag: str, least: float, most: float, words: str, whole: bool = False) -> Callable[[Any], Any]:
    """A converter for numbers.

    Args:
        flag: Name of the option, for messages.
        least: Smallest allowed value.
        most: Largest allowed value.
        words: Description of the allowed values, for messages.
        whole: Whether to convert to int.

    Returns:
        Converts a value and raises OptionError where it is not allowed. None stays None.
    """

    def convert(value: Any) -> Any:
        if value is None:
            return None
        try:
            found = int(value) if whole else float(value)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{flag} '{value}' is no number; it takes {words}") from error
        if not (math.isfinite(found) and least <= found <= most):
            raise OptionError(f"{flag} {found:g} is out of range; it takes {words}")
        return found

    return convert


def patterns(value: Sequence[str]) -> tuple[str, ...]:
    """One or more patterns as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def path(value: str | Path | None) -> Path | None:
    """A path; None stays None."""
    return None if value is None else Path(value)


def rows(value: Any) -> Rows | None:
    """Data as a path or as batches.

    Args:
        value: A path, one batch, or several batches.

    Returns:
        A path, or a tuple of batches; None stays None.
    """
    if value is None or isinstance(value, (str, Path)):
        return path(value)
    return (value,) if isinstance(value, Mapping) else tuple(value)


Tokenizer = str | Callable[[str], Sequence[int]]
"""A function that makes token ids of a text, or where it is: package.module:function or file.py:function."""


def tokenizer(value: Any) -> Tokenizer | None:
    """A tokenizer by name, or as it is.

    Args:
        value: A name with a colon, or a function.

    Returns:
        The same; None stays None.

    Raises:
        OptionError: It is neither.
    """
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    place, colon, name = str(value).rpartition(":")
    if not (isinstance(value, str) and place and colon and name):
        raise OptionError(f"--tokenizer {value} takes package.module:function or file.py:function")
    return value


Labels = Path | Iterable[int]
"""Where labels are read from, or the class of each sample."""


def labels(value: Any) -> Labels | None:
    """Labels as a path, or as they are.

    Args:
        value: A path, or class numbers: a list or an array.

    Returns:
        The path, or the numbers; None stays None.

    Raises:
        OptionError: It is neither.
    """
    if value is None or isinstance(value, (str, Path)):
        return path(value)
    if isinstance(value, Mapping) or not hasattr(value, "__len__"):
        raise OptionError("--labels takes a file, or in Python an array of class numbers, one a row")
    found: Labels = value
    return found
