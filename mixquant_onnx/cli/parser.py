"""Parsers made from the options in `config/`. Imports nothing slow, so that `--help` is fast."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixquant_onnx.cli.suggestions import nearest_option
from mixquant_onnx.config.config import STAGES, all_options
from mixquant_onnx.config.file import check_asked, file_of_options, options_of_file
from mixquant_onnx.config.goals import goals_in, overridden
from mixquant_onnx.config.option import Option, options_in
from mixquant_onnx.errors import OptionError

COMMON = (
    "qem", "max_size", "avg_bits", "max_drop", "min_sqnr", "min_agreement", "data", "labels", "optimize_for", "bits",
    "exclude", "benchmark",
)  # fmt: skip
"""Keywords of the options that most people need: --help shows these, --help-all every one."""


_WIDTH = 78


class Parser(argparse.ArgumentParser):
    """A parser that raises OptionError where argparse would print its usage and exit.

    Attributes:
        hidden: Options that --help leaves out, with their texts.
    """

    def __init__(self, **given: Any) -> None:
        given["description"] = textwrap.fill(given.get("description", ""), _WIDTH)
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **given)
        self.hidden: list[tuple[argparse.Action, str]] = []

    def add_debug(self, group: Any = None) -> None:
        """Add --debug.

        Args:
            group: A group of this parser; None for none.
        """
        (group or self).add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> Any:
        """Raise OptionError.

        Args:
            message: What is wrong with the arguments.

        Raises:
            OptionError: Always.
        """
        raise OptionError(f"{message}{nearest_option(message, self._option_string_actions)}; see {self.prog} --help")


class _HelpAll(argparse.Action):
    """Prints the help with every option."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        for action, text in parser.hidden:
            action.help = text
        parser.print_help()
        parser.exit()


def add_options(parser: Parser, without: Sequence[str] = ()) -> None:
    """Add the options of every stage, as text; options that are not given are missing in the namespace.

    Args:
        parser: The parser.
        without: Keywords of options to leave out.
    """
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="options from this file (default mixquant.toml or [tool.mixquant] in pyproject.toml, where there is one)",
    )  # fmt: skip
    add_some(parser, "Most used", [keyword for keyword in COMMON if keyword not in without])
    for title, stage in STAGES.values():
        group = parser.add_argument_group(title)
        for one in options_in(stage):
            if one.keyword not in {*without, *COMMON}:
                action = _add(group, one)
                parser.hidden.append((action, str(action.help)))
                action.help = argparse.SUPPRESS
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every option")


def add_some(parser: Parser, title: str, keywords: Sequence[str]) -> None:
    """Add a few options in a group of their own.

    Args:
        parser: The parser.
        title: Title of the group.
        keywords: Keywords of the options.
    """
    group = parser.add_argument_group(title)
    known = {one.keyword: one for one in all_options()}
    for keyword in keywords:
        _add(group, known[keyword])


def _add(group: Any, one: Option) -> argparse.Action:
    shown = "" if one.kind in ("switch", "off") or one.default in (None, ()) else f" (default {one.shown})"
    told = {"dest": one.keyword, "default": argparse.SUPPRESS, "help": (one.help + shown).replace("%", "%%")}
    if one.kind == "value":
        metavar = one.metavar or "{" + ",".join(one.choices) + "}"
        made: argparse.Action = group.add_argument(one.flag, metavar=metavar, **told)
        return made
    actions = {"list": "append", "switch": "store_true", "off": "store_false"}
    extra = {"metavar": one.metavar} if one.kind == "list" else {}
    switch: argparse.Action = group.add_argument(one.flag, action=actions[one.kind], **extra, **told)
    return switch


def keywords_in(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `config/` that were given, and those of the file of options, which is named on stderr.

    A goal on the command line replaces that of the file, as does what takes no goal: a plan to replay, or a sweep.

    Args:
        args: What the parser returned.

    Returns:
        Values by keyword; those of the command line as text.

    Raises:
        OptionError: The file is not understood.
    """
    found = file_of_options(args.config) if "config" in args else None
    if found is None:
        return _given(args)
    kept = options_of_file(found)
    check_asked(found, args.config is not None, kept)
    print(f"mixquant-onnx: options from {found}", file=sys.stderr)
    given = _given(args)
    goals = goals_in(given)
    if goals or getattr(args, "apply", None) is not None or "qems" in args:
        kept = overridden(kept, goals)
    return {**kept, **given}


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {one.keyword: getattr(args, one.keyword) for one in all_options() if hasattr(args, one.keyword)}


def paths_in(args: argparse.Namespace, wanted: int, command: str) -> list[Path]:
    """The file names that were given.

    Args:
        args: What the parser returned.
        wanted: Their number.
        command: Name of the command, for the message.

    Returns:
        The paths.

    Raises:
        OptionError: There are more or fewer.
    """
    if len(args.paths) != wanted:
        names = f"{wanted} file name{'s' * (wanted > 1)} expected, {len(args.paths)} given"
        raise OptionError(f"{names}; see {command} --help")
    return [Path(path) for path in args.paths]
