"""tinygrad; its code for the processor is compiled by clang, so its interpreter in Python runs where there is none."""

from __future__ import annotations

import os
import shutil
from typing import Any

os.environ["DEV"] = "CPU" if shutil.which("clang") else "PYTHON"

from child import Run, serve
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner


def load(path: str, rows: Any) -> Run:
    runner = OnnxRunner(path)
    return lambda: next(iter(runner({next(iter(runner.graph_inputs)): Tensor(rows)}).values())).numpy()


if __name__ == "__main__":
    serve(load, "tinygrad")
