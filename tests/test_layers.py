"""Imports go from a higher layer to a lower one (DESIGN.md section 3)."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "mixquant_onnx"

LAYERS = {
    "errors": 0, "types": 1, "numerics": 1,
    "grid": 2, "integer": 2, "metrics": 2,
    "methods": 3, "allocators": 3, "rounding": 2, "solvers": 2, "second_moments": 3, "trust": 4, "quantizer": 5,
    "bisection": 2, "encodings": 4, "graph": 5,
    "runtime": 5, "activations": 5.2, "data": 5.5, "feeds": 6, "calibration": 7, "decoding": 6, "verification": 7,
    "verify": 8,
    "export": 6, "measure": 6, "progress": 0, "options": 7, "planning": 8, "oracle": 7, "costs": 9,
    "interactions": 10,
    "allocation": 11, "contest": 12, "crossfit": 13, "safety": 13, "figures": 8, "proof": 11,
    "reconstruct": 8, "blockwise": 9, "layerwise": 10, "pipeline": 14,
    "promises": 15, "goals": 16, "sizing": 15, "sweep": 15,
    "api": 17, "report": 17,
    "cli_common": 17, "cli_sweep": 18, "cli": 19,
}  # fmt: skip


def _unit(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "mixquant_onnx" and len(parts) > 1 else None


def test_imports_go_downward() -> None:
    found = 0
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                unit = _unit(name)
                if unit is None or unit == own or unit not in LAYERS:
                    continue
                found += 1
                assert LAYERS[unit] < LAYERS[own], f"{file.relative_to(ROOT)} imports {unit}"
    assert found > 40


def test_every_module_has_a_layer() -> None:
    units = {p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert units - {"__init__", "__main__", "__pycache__"} == set(LAYERS)


def test_graphsurgeon_and_onnxruntime_are_imported_in_one_place_each() -> None:
    for library, home in (("onnx_graphsurgeon", "graph/model_io.py"), ("onnxruntime", "runtime.py")):
        users = [f for f in ROOT.rglob("*.py") if f"import {library}" in f.read_text()]
        assert [str(f.relative_to(ROOT)) for f in users] == [home]
