"""One command with several tables: the table of a name is printed, and with --write put into docs/research/ too."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run(
    tool: str,
    package: str,
    names: Sequence[str],
    prefix: str,
    arguments: list[str],
    plots: bool = False,
    modules: Mapping[str, str] | None = None,
) -> int:
    """`tool` NAME [options] [--write], where NAME is a module of `package`; its file: docs/research/{prefix}{NAME}.md.

    `plots`: each takes --plot, and --write puts that beside the table. `modules`: those not called by their names.
    """
    if not arguments or arguments[0] not in names:
        print(f"usage: {tool} {{{','.join(names)}}} [options] [--write]; each has --help", file=sys.stderr)
        return 2
    name, *rest = arguments
    write = "--write" in rest
    rest = [argument for argument in rest if argument != "--write"]
    main = importlib.import_module(f"{package}.{(modules or {}).get(name, name)}").main
    if not write:
        return int(main(rest))
    text = io.StringIO()
    drawn = ["--plot", str(ROOT / "docs" / "research" / f"{prefix}{name}.svg")] if plots else []
    with contextlib.redirect_stdout(text):
        code = int(main([*rest, *drawn]))
    print(text.getvalue(), end="")
    if code == 0:
        shown = " ".join(argument for argument in rest if "/" not in argument)
        command = f"{tool} {name} {shown}".strip()
        file = ROOT / "docs" / "research" / f"{prefix}{name}.md"
        file.write_text(f"{text.getvalue()}\nWritten by `{command} --write`.\n", encoding="utf8")
    return code
