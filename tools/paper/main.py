"""tools/experiments WHAT [options] [--write]: run that experiment; --write puts its table into docs/ too."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
NAMES = ("runtime", "asymmetric", "brecq")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        print(f"usage: tools/experiments {{{','.join(NAMES)}}} [options] [--write]; each has --help", file=sys.stderr)
        return 2
    name, *rest = arguments
    write = "--write" in rest
    rest = [argument for argument in rest if argument != "--write"]
    run = importlib.import_module(f"paper.{name}").main
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = int(run(rest))
    print(text.getvalue(), end="")
    if write and code == 0:
        shown = " ".join(argument for argument in rest if "/" not in argument)
        command = f"tools/experiments {name} {shown}".strip()
        file = ROOT / "docs" / f"experiment-{name}.md"
        file.write_text(f"{text.getvalue()}\nWritten by `{command} --write`.\n", encoding="utf8")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
