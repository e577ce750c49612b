"""tools/bench WHAT [options] [--write]: run the benchmark of that name; --write puts its table into docs/ too."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
NAMES = ("search", "kernels", "load", "models", "releases", "accuracy", "choices")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        print(f"usage: tools/bench {{{','.join(NAMES)}}} [options] [--write]; each has --help", file=sys.stderr)
        return 2
    name, *rest = arguments
    write = "--write" in rest
    rest = [argument for argument in rest if argument != "--write"]
    run = importlib.import_module(f"benchmarks.{name}").main
    if not write:
        return int(run(rest))
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = int(run(rest))
    print(text.getvalue(), end="")
    shown = " ".join(argument for argument in rest if "/" not in argument)
    command = f"tools/bench {name} {shown}".strip()
    (ROOT / "docs" / f"{name}.md").write_text(f"{text.getvalue()}\nWritten by `{command} --write`.\n", encoding="utf8")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
