"""tinygrad on the processor, for which it needs clang. (Its interpreter in Python needs minutes for one file.)"""

from __future__ import annotations

import os
import shutil
from typing import Any

os.environ["DEV"] = "CPU"

from child import Run, serve
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

NEEDS = "clang is not installed; the file was read, and not run"


def load(path: str, rows: Any) -> Run:
    try:
        runner = OnnxRunner(path)
    except FileNotFoundError as missing:
        raise RuntimeError(NEEDS) from missing
    if shutil.which("clang") is None:
        raise RuntimeError(NEEDS)
    return lambda: next(iter(runner({next(iter(runner.graph_inputs)): Tensor(rows)}).values())).numpy()


if __name__ == "__main__":
    serve(load, "tinygrad")
