"""What the tools that train the models of models/ share: clean ONNX files, and the manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parent.parent


def clean(path: Path) -> onnx.ModelProto:
    """Rewrite an exported file: constants stored once, no notes of the exporter; checked."""
    model = onnx.load(path)
    constants_to_initializers(model.graph)
    strip_notes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return model


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Store the value of each Constant node once, as an initializer."""
    renamed: dict[str, str] = {}
    known: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = numpy_helper.to_array(node.attribute[0].t)
        key = (node.attribute[0].t.data_type, value.shape, value.tobytes())
        if key not in known:
            known[key] = f"constant_{len(known)}"
            graph.initializer.append(numpy_helper.from_array(value, known[key]))
        renamed[node.output[0]] = known[key]
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def strip_notes(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata, where exporters leave stack traces and paths."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    for message in (model, graph, *graph.node, *graph.initializer, *values):
        message.ClearField("doc_string")
        message.ClearField("metadata_props")


def described(path: Path, written: onnx.ModelProto, seed: int, opset: int) -> dict[str, object]:
    """What the manifest tells of every file."""
    weights = [tensor for tensor in written.graph.initializer if not tensor.name.startswith("constant_")]
    return {
        "command": "tools/train_models",
        "seed": seed,
        "parameters": sum(int(np.prod(tensor.dims)) for tensor in weights),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "opset": opset,
        "operators": dict(sorted(Counter(node.op_type for node in written.graph.node).items())),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
    }


def write_manifest(folder: Path, entries: dict[str, dict[str, object]]) -> None:
    """Put entries into manifest.json; those of other models stay."""
    path = folder / "manifest.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **entries}, indent=2) + "\n", encoding="utf-8")
