"""Parsers made from the options in config/. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixquant_onnx.config.config import STAGES, all_options
from mixquant_onnx.config.option import Option, options_in
from mixquant_onnx.errors import OptionError, writing


class Parser(argparse.ArgumentParser):
    """Raises OptionError where argparse would print its usage and end."""

    def error(self, message: str) -> Any:
        raise OptionError(f"{message}; see {self.prog} --help")


def add_options(parser: Parser, without: Sequence[str] = ()) -> None:
    """The options of every stage but `without`, as text: what is not given is not in the namespace."""
    for title, stage in STAGES.values():
        group = parser.add_argument_group(title)
        for one in options_in(stage):
            if one.keyword not in without:
                _add(group, one)


def _add(group: Any, one: Option) -> None:
    shown = "" if one.kind in ("switch", "off") or one.default in (None, ()) else f" (default {one.shown})"
    told = {"dest": one.keyword, "default": argparse.SUPPRESS, "help": (one.help + shown).replace("%", "%%")}
    if one.kind == "value":
        metavar = one.metavar or "{" + ",".join(one.choices) + "}"
        group.add_argument(one.flag, metavar=metavar, **told)
    else:
        actions = {"list": "append", "switch": "store_true", "off": "store_false"}
        extra = {"metavar": one.metavar} if one.kind == "list" else {}
        group.add_argument(one.flag, action=actions[one.kind], **extra, **told)


def keywords_in(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the options of config/."""
    return {one.keyword: getattr(args, one.keyword) for one in all_options() if hasattr(args, one.keyword)}


def paths_in(args: argparse.Namespace, wanted: int, command: str) -> list[Path]:
    """The file names. Raises OptionError where there are not as many as `wanted`."""
    if len(args.paths) != wanted:
        names = f"{wanted} file name{'s' * (wanted > 1)} expected, {len(args.paths)} given"
        raise OptionError(f"{names}; see mixquant-onnx {command} --help")
    return [Path(path) for path in args.paths]


def write_text(path: Path, text: str) -> None:
    """Raises OutputError."""
    with writing(path):
        path.write_text(text, encoding="utf8")
