"""What the commands share: errors of arguments in one line, and files of text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mixquant_onnx.errors import OptionError, writing


class Parser(argparse.ArgumentParser):
    """Raises OptionError where argparse would print its usage and end."""

    def error(self, message: str) -> Any:
        raise OptionError(f"{message}; see mixquant-onnx --help")


def write_text(path: Path, text: str) -> None:
    """Raises OutputError."""
    with writing(path):
        path.write_text(text, encoding="utf8")
