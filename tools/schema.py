"""Writes JSON schemas of what --json gives, from the TypedDicts of mixquant_onnx/report. `--check`: exit code 1 where a
file is not as it would be written."""

from __future__ import annotations

import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mixquant_onnx.report.sections.comparison import FORMAT as COMPARISON_FORMAT  # noqa: E402
from mixquant_onnx.report.sections.comparison import ComparisonData  # noqa: E402
from mixquant_onnx.report.sections.header import SUMMARY_FORMAT  # noqa: E402
from mixquant_onnx.report.sections.tradeoff import FORMAT as TRADEOFF_FORMAT  # noqa: E402
from mixquant_onnx.report.sections.tradeoff import Tradeoff  # noqa: E402
from mixquant_onnx.report.summary import Summary  # noqa: E402

SCHEMAS = {
    "summary": (Summary, SUMMARY_FORMAT),
    "sweep": (Tradeoff, TRADEOFF_FORMAT),
    "compare": (ComparisonData, COMPARISON_FORMAT),
}
"""By the name of the file: the type, and its version."""

PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}


def schema_of(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; those of TypedDicts inside go to `found`."""
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if is_typeddict(kind):
        if kind.__name__ not in found:
            found[kind.__name__] = {}
            found[kind.__name__] = _object(kind, found)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, found) for one in inner]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1], found)}
    return {}


def _object(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    keys = {name: schema_of(one, found) for name, one in get_type_hints(kind).items()}
    text = inspect.cleandoc(kind.__doc__ or "")
    return {
        "type": "object", "description": text, "properties": keys, "required": sorted(kind.__required_keys__),
        "additionalProperties": False,
    }  # fmt: skip


def text_of(name: str) -> str:
    """The content of one file."""
    kind, version = SCHEMAS[name]
    found: dict[str, Any] = {}
    schema_of(kind, found)
    top = found.pop(kind.__name__)
    top["properties"]["format"] = {"const": version}
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"mixquant-onnx {name}", **top}
    return json.dumps({**made, "$defs": dict(sorted(found.items()))}, indent=1) + "\n"


def main(arguments: list[str]) -> int:
    files = {ROOT / "docs" / "schema" / f"{name}.json": text_of(name) for name in SCHEMAS}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf8") != text]
    if arguments == ["--check"]:
        print(*(f"{path.relative_to(ROOT)} is not as tools/schema makes it" for path in stale), sep="\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
