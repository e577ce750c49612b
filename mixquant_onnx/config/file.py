"""Options from a file: mixquant.toml, or [tool.mixquant] in pyproject.toml."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixquant_onnx.config import parsing
from mixquant_onnx.config.config import all_options
from mixquant_onnx.config.goals import check_goals
from mixquant_onnx.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = ("mixquant.toml", "pyproject.toml")
"""Files that are looked for in the working folder, the first that there is."""


def file_of_options(path: Path | None) -> Path | None:
    """The file that options are read from.

    Args:
        path: The file that was asked for; None for the first of `NAMES` in the working folder that has options.

    Returns:
        The file; None where there is none.
    """
    if path is not None:
        return path
    return next((Path(name) for name in NAMES if Path(name).is_file() and _has_options(Path(name))), None)


def _has_options(path: Path) -> bool:
    return path.name != "pyproject.toml" or b"[tool.mixquant" in path.read_bytes()


def options_of_file(found: Path) -> dict[str, Any]:
    """The options of a file, by keyword.

    Names are those of the Python interface, with `-` or `_`: `avg-bits = 4.5`, `exclude = ["head.*"]`. Paths are
    relative to the folder of the file.

    Args:
        found: The file.

    Returns:
        Options.

    Raises:
        OptionError: The file cannot be read, or has names that are no options, or values of another type,
            or several goals.
    """
    try:
        data: Any = tomllib.loads(found.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        hint = "; strings need quotes" if str(error).startswith("Invalid value") else ""
        raise OptionError(f"{found} cannot be read: {error}{hint}") from error
    if found.name == "pyproject.toml":
        data = data.get("tool", {}).get("mixquant", {})
    if not isinstance(data, dict):
        raise OptionError(f"{found}: [tool.mixquant] is no table of options")
    made = _checked(data, found)
    try:
        check_goals(made)
    except OptionError as error:
        raise OptionError(f"{found}: {error}") from error
    return made


def check_asked(found: Path, asked: bool, options: Mapping[str, Any]) -> None:
    """Check that a file that was found, not asked for, runs no code.

    Args:
        found: The file.
        asked: Whether `--config` names it.
        options: Its options.

    Raises:
        OptionError: It has an option that runs a command or imports code.
    """
    runs = {"metric": "metric-command runs a command", "tokenizer": "tokenizer runs Python code"}
    told = next((text for keyword, text in runs.items() if keyword in options), None)
    if told is not None and not asked:
        raise OptionError(f"{found} was not asked for, and its {told}; give --config {found}")


def _checked(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    known = {one.keyword: one for one in all_options()}
    known |= {one.flag.lstrip("-").replace("-", "_"): one for one in all_options() if one.kind != "off"}
    made: dict[str, Any] = {}
    for name, value in data.items():
        one = known.get(name.replace("-", "_"))
        if one is None:
            raise OptionError(f"{path}: '{name}' is no option; see mixquant-onnx --help")
        if one.kind in ("switch", "off") and not isinstance(value, bool):
            raise OptionError(f"{path}: {name} takes true or false, not {value!r}")
        if isinstance(value, dict) or (isinstance(value, bool) and one.kind not in ("switch", "off")):
            raise OptionError(f"{path}: {name} takes a value as in --help, not {value!r}")
        named = one.convert in (parsing.path, parsing.rows, parsing.labels)
        code = one.convert is parsing.tokenizer and ".py:" in str(value)
        inside = (named or code) and isinstance(value, str)
        made[one.keyword] = str(path.parent / value) if inside else value
    return made
