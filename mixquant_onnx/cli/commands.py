"""The commands by name, but for `completion`, which knows them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mixquant_onnx.cli import compare, diff, inspect, quantize, sweep
from mixquant_onnx.cli.parser import Parser


class Command(Protocol):
    """A module of this package."""

    def parser(self) -> Parser:
        """The parser of its arguments."""

    def main(self, arguments: Sequence[str], /) -> int:
        """Run it; the exit code. Raises MixquantError."""


COMMANDS: Mapping[str, Command] = {
    "quantize": quantize,
    "inspect": inspect,
    "sweep": sweep,
    "compare": compare,
    "diff": diff,
}
"""The name of the first may be left out."""
