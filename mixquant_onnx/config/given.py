"""The options that were given, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixquant_onnx.config.config import all_options
from mixquant_onnx.config.goals import goals_in


def given_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as values that JSON has.

    Args:
        given: Values by keyword, of the command line, of a file or of Python.

    Returns:
        Numbers, text, truth values, and lists of these; text of the command line where a number is meant is a number.
        In place of batches and functions there is a word on what they are.
    """
    made = {}
    for one in all_options():
        if one.keyword in given:
            value = given[one.keyword]
            number = isinstance(value, str) and set(one.accepts.split(" | ")) <= {"int", "float", "None"}
            made[one.keyword] = _plain(one.convert(value) if number else value)
    return made


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(value):
        return getattr(value, "__name__", "a function")
    if isinstance(value, Sequence) and all(isinstance(one, (bool, int, float, str)) for one in value):
        return list(value)
    return "in memory"


def goal_text(given: Mapping[str, Any]) -> str | None:
    """The goal among options, such as `min-agreement 95%`; None where there is none.

    Args:
        given: Options by keyword.
    """
    found = goals_in(given)
    return f"{found[0].replace('_', '-')} {given[found[0]]}" if found else None
