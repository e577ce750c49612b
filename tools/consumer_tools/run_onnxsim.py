"""onnxsim, then ONNX Runtime."""

from __future__ import annotations

import onnx
import onnxsim
from child import Run, serve
from rewritten import load_rewritten, nbytes


def load(path: str, rows: object) -> Run:
    return load_rewritten(onnxsim.simplify(onnx.load(path))[0], f"{path}.sim", rows)


if __name__ == "__main__":
    serve(load, "onnxsim", lambda path: nbytes(f"{path}.sim"))
