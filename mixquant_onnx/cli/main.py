"""The console command: dispatch to subcommands, and handling of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from mixquant_onnx.cli import commands, completion, quantize
from mixquant_onnx.cli.signals import stoppable
from mixquant_onnx.cli.suggestions import nearest_command
from mixquant_onnx.errors import MixquantError, OptionError

INTERRUPTED = 130
"""Exit code after a signal to stop, 128 + SIGINT as in shells."""

NOT_READ = 141
"""Exit code where nobody reads the output to its end, 128 + SIGPIPE as in shells."""

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    **{name: command.main for name, command in commands.COMMANDS.items()},
    "completion": completion.main,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Command line without the name of the program; None for that of the process.

    Returns:
        The exit code; errors are printed on stderr.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with stoppable():
        try:
            command, rest = _command(arguments)
            return COMMANDS[command](rest)
        except MixquantError as error:
            if "--debug" in arguments:
                raise
            print(f"mixquant-onnx: {_one_line(str(error))}", file=sys.stderr)
            return error.exit_code
        except BrokenPipeError:
            # Nobody reads on; Python would complain once more when it flushes what is left.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NOT_READ
        except KeyboardInterrupt as stop:
            print(f"mixquant-onnx: interrupted; {_one_line(str(stop)) or 'nothing was written'}", file=sys.stderr)
            return INTERRUPTED
        except MemoryError:
            print("mixquant-onnx: not enough memory for this model; use a larger machine", file=sys.stderr)
            return 1


def _one_line(text: str) -> str:
    """`text` with names of files and tensors as they can be shown: without line ends and other control characters."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments; options may precede its name, and `quantize` may be omitted; OptionError."""
    if arguments and arguments[0] in COMMANDS:
        return arguments[0], arguments[1:]
    near = nearest_command(arguments[0], COMMANDS) if arguments else ""
    if near:
        told = f"'{arguments[0]}' is no file and no command (did you mean {near}?)"
        raise OptionError(f"{told}; the commands are {', '.join(COMMANDS)}")
    if not arguments:
        print(quantize.parser().format_usage(), end="", file=sys.stderr)
    named = next((word for word in arguments if word in COMMANDS), None)
    if named is not None and "-h" not in arguments and "--help" not in arguments:
        before = quantize.parser().parse_known_args(arguments[: arguments.index(named)])[0]
        if not before.paths:
            at = arguments.index(named)
            return named, arguments[:at] + arguments[at + 1 :]
    return "quantize", arguments


if __name__ == "__main__":
    raise SystemExit(main())
