"""Writes what is made from the options in mixquant_onnx/config: the keywords of the Python interface
(mixquant_onnx/keywords.py) and docs/options.md. `--check`: exit code 1 where a file is not as it would be written."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mixquant_onnx.config.config import STAGES, all_options  # noqa: E402
from mixquant_onnx.config.option import Option, options_in  # noqa: E402


def keywords() -> str:
    """The file mixquant_onnx/keywords.py."""
    lines = [f"    {one.keyword}: {one.accepts}" for one in all_options()]
    return "\n".join(
        [
            '"""Keywords of the Python interface, for type checkers. Made by tools/options from config/."""',
            "",
            "from __future__ import annotations",
            "",
            "from collections.abc import Callable, Iterable, Mapping, Sequence",
            "from pathlib import Path",
            "from typing import Any, Literal, TypedDict",
            "",
            "",
            "class Keywords(TypedDict, total=False):",
            '    """What docs/options.md explains."""',
            "",
            *lines,
            "",
        ]
    )


def page() -> str:
    """The file docs/options.md."""
    parts = ["# Options\n\nOf the command line, and as keywords of `quantize`, `inspect`, `sweep` and `apply_plan`."]
    for title, stage in STAGES.values():
        rows = [_row(one) for one in options_in(stage)]
        parts.append("\n".join([f"## {title}\n", "| flag | keyword | default | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n\nMade by `tools/options` from mixquant_onnx/config.\n"


def _row(one: Option) -> str:
    flag = one.flag if one.metavar is None and not one.choices else f"{one.flag} {one.metavar or '|'.join(one.choices)}"
    text = one.help.replace("|", "\\|")
    return f"| `{flag.replace('|', chr(92) + '|')}` | `{one.keyword}` | {one.shown or '()'} | {text} |"


FILES = {ROOT / "mixquant_onnx" / "keywords.py": keywords, ROOT / "docs" / "options.md": page}


def main(arguments: list[str]) -> int:
    stale = [path for path, made in FILES.items() if not path.is_file() or path.read_text(encoding="utf8") != made()]
    if arguments == ["--check"]:
        print(*(f"{path.relative_to(ROOT)} is not as tools/options makes it" for path in stale), sep="\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(FILES[path](), encoding="utf8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
