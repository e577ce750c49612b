"""Writes the parts of ARCHITECTURE.md that are made from the code: the picture of how a value travels, with the types
that the functions say they give back, and the table of packages. `--check`: exit code 1 where the file differs."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mixquant_onnx"
PAGE = ROOT / "ARCHITECTURE.md"

STATIONS = (
    "model.files.load",
    "model.weights.find",
    "planning.search.search",
    "planning.allocation.by_rule",
    "quantization.network.quantize_layers",
    "export.rewrite.rewrite",
    "model.files.save",
    "verification.verify.verify",
)
"""The functions that a model passes through in `mixquant-onnx IN OUT --qem 2`, in order."""

ROWS = ("data.preparation.prepare", "data.calibration.Calibration")
"""Those that rows of data pass through, into the quantization."""


def _file(module: str) -> Path:
    path = ROOT / PACKAGE / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined(name: str) -> ast.FunctionDef | ast.ClassDef:
    """The definition of `module.function`; an error where the code has it no more."""
    module, _, wanted = name.rpartition(".")
    for node in ast.parse(_file(module).read_text(encoding="utf8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == wanted:
            return node
    raise SystemExit(f"ARCHITECTURE.md: {name} is not there; change STATIONS in tools/architecture.py")


def _result(name: str) -> str:
    found = _defined(name)
    made = ast.unparse(found.returns) if isinstance(found, ast.FunctionDef) and found.returns else found.name
    return made.replace('"', "'")


def picture() -> str:
    """A Mermaid flow chart."""
    lines = ["```mermaid", "flowchart TD"]
    for number, name in enumerate(STATIONS):
        lines.append(f'    s{number}["{name}"]')
    for number, name in enumerate(STATIONS[:-1]):
        lines.append(f'    s{number} -- "{_result(name)}" --> s{number + 1}')
    lines.append(f'    s{len(STATIONS) - 1} -- "{_result(STATIONS[-1])}" --> report["report"]')
    for number, name in enumerate(ROWS):
        lines.append(f'    d{number}["{name}"]')
    at = STATIONS.index("quantization.network.quantize_layers")
    lines.append(f'    d0 -- "{_result(ROWS[0])}" --> d1 -- "moments" --> s{at}')
    return "\n".join([*lines, "```"])


def _layers() -> list[str]:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["importlinter"]["contracts"][
        0
    ]
    return [name for layer in contract["layers"] for name in re.split(r"\s*\|\s*", layer)]


def _used(unit: str, units: list[str]) -> list[str]:
    path = ROOT / PACKAGE / unit
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    text = "\n".join(file.read_text(encoding="utf8") for file in files)
    return [u for u in units if u != unit and re.search(rf"from {PACKAGE}(\.{u}\b| import {u}\b)", text)]


def packages() -> str:
    """A table, the highest layer first."""
    units = _layers()
    rows = ["| | what | imports |", "|---|---|---|"]
    for unit in units:
        told = ast.get_docstring(ast.parse(_file(unit).read_text(encoding="utf8"))) or ""
        rows.append(f"| `{unit}` | {told.splitlines()[0] if told else ''} | {', '.join(_used(unit, units))} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """`text` with what is between the marks made anew."""
    for mark, made in (("picture", picture()), ("packages", packages())):
        text = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- end -->)",
            lambda m, made=made: f"{m[1]}{made}\n{m[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf8")
    made = page(text)
    if arguments == ["--check"]:
        if made != text:
            print("ARCHITECTURE.md is not as tools/architecture makes it")
        return int(made != text)
    PAGE.write_text(made, encoding="utf8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
