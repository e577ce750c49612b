"""ONNX Runtime in its default options."""

from __future__ import annotations

import onnxruntime
from child import Run, serve


def load(path: str, rows: object) -> Run:
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: rows})[0]


if __name__ == "__main__":
    serve(load, "onnxruntime")
