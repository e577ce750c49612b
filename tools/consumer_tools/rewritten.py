"""A rewritten model, run by ONNX Runtime as written: what is compared is the rewrite, not the kernels."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
from child import Run


def load_rewritten(model: onnx.ModelProto, path: str, rows: object) -> Run:
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: rows})[0]


def nbytes(path: str) -> int:
    return Path(path).stat().st_size
