"""tract, a runtime in Rust."""

from __future__ import annotations

import tract
from child import Run, serve


def load(path: str, rows: object) -> Run:
    runnable = tract.onnx().load(path).into_model().into_runnable()
    return lambda: runnable.run([rows])[0].to_numpy()


if __name__ == "__main__":
    serve(load, "tract")
