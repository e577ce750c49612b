"""OpenVINO on the processor, with float activations."""

from __future__ import annotations

import openvino
from child import Run, serve


def load(path: str, rows: object) -> Run:
    compiled = openvino.Core().compile_model(path, "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    return lambda: compiled([rows])[0]


if __name__ == "__main__":
    serve(load, "openvino")
