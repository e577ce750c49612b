"""onnxslim, then ONNX Runtime."""

from __future__ import annotations

import onnxslim
from child import Run, serve
from rewritten import load_rewritten, nbytes


def load(path: str, rows: object) -> Run:
    return load_rewritten(onnxslim.slim(path), f"{path}.slim", rows)


if __name__ == "__main__":
    serve(load, "onnxslim", lambda path: nbytes(f"{path}.slim"))
