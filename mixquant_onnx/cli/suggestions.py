"""What was probably meant by a word that is no option, or no command."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

_UNKNOWN = "unrecognized arguments: "
"""How argparse begins its message on words that are no options."""


def nearest_option(message: str, known: Collection[str]) -> str:
    """A question to be added to argparse's message on an option that is not known.

    Args:
        message: Any message of argparse.
        known: All options.

    Returns:
        Such as " (did you mean --bits?)"; empty where nothing is near, or the message is another one.
    """
    words = message.removeprefix(_UNKNOWN).split() if message.startswith(_UNKNOWN) else []
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
    near = difflib.get_close_matches(option, sorted(known), n=1) if option else []
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_command(word: str, known: Collection[str]) -> str:
    """The command that was probably meant by a first word.

    Args:
        word: The word.
        known: All commands.

    Returns:
        The command; empty where the word is an option, a file, or the name of one, or nothing is near.
    """
    if not word.isalpha() or Path(word).exists():
        return ""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1)), "")
