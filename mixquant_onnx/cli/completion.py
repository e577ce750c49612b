"""`mixquant-onnx completion SHELL`: the script by which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from mixquant_onnx.cli import quantize
from mixquant_onnx.cli.commands import COMMANDS
from mixquant_onnx.cli.parser import Parser
from mixquant_onnx.config.config import all_options

SHELLS = ("bash", "zsh", "fish")

_FILES = ("FILE", "PATH", "IN.onnx", "OUT.onnx", "OTHER.onnx", "B.json", "FIGURE")
"""What the placeholder of a file name contains."""


def parser() -> Parser:
    """The parser of `completion`."""
    made = Parser(
        prog="mixquant-onnx completion",
        usage="mixquant-onnx completion {" + ",".join(SHELLS) + "}",
        epilog="example:\n  mixquant-onnx completion bash > ~/.local/share/bash-completion/completions/mixquant-onnx",
        description="Print the script by which a shell completes commands, options and file names.",
    )
    made.add_argument("shell", choices=SHELLS)
    made.add_debug()
    return made


def main(arguments: Sequence[str]) -> int:
    """Print the script.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.
    """
    print(script(parser().parse_args(arguments).shell))
    return 0


def script(shell: str) -> str:
    """The script for one shell.

    Args:
        shell: One of `SHELLS`.

    Returns:
        Text that the shell reads.
    """
    import shtab

    root = argparse.ArgumentParser(prog="mixquant-onnx", parents=[_shown(quantize.parser())], add_help=False)
    paths = next(action for action in root._actions if action.dest == "paths")
    root._actions.remove(paths)
    named = root.add_subparsers(dest="command")
    makers = {**{name: command.parser for name, command in COMMANDS.items()}, "completion": parser}
    for name, make in makers.items():
        made = _shown(make())
        named.add_parser(name, parents=[made], add_help=False, help=made.description)
    choices = _choices()
    for one in (root, *named.choices.values()):
        _annotate(one, choices)
    text: str = shtab.complete(root, shell)
    # The name of a command may be left out: where no command fits, the word is a file.
    return text.replace("complete -o bashdefault", "complete -o bashdefault -o default")


def _choices() -> dict[str, Sequence[str]]:
    """The words that an option takes, by its flag."""
    from mixquant_onnx.export.targets.table import TARGETS
    from mixquant_onnx.planning.allocators.rules import RULES
    from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES
    from mixquant_onnx.quantization.methods import METHODS

    found: dict[str, Sequence[str]] = {
        one.flag: one.choices or tuple((one.metavar or "").split("|")) for one in all_options()
    }
    known = {flag: words for flag, words in found.items() if len(words) > 1}
    known |= {"--target": tuple(TARGETS), "--rule": tuple(RULES)}
    return known | {"--cost": ("auto", *SENSITIVITIES), "--method": ("auto", *METHODS)}


def _shown(parser: Parser) -> Parser:
    """The parser with the options that --help leaves out."""
    for action, text in parser.hidden:
        action.help = text
    return parser


def _annotate(parser: argparse.ArgumentParser, choices: Mapping[str, Sequence[str]]) -> None:
    """Tell which options take files and which some words; options that --help leaves out are completed too."""
    import shtab

    for action in parser._actions:
        flag, shown = next(iter(action.option_strings), ""), str(action.metavar or "")
        if flag in choices and action.nargs != 0:
            action.choices = choices[flag]
        elif any(name in shown for name in _FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif shown == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
