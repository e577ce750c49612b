"""MNN, from what its converter writes. (The converter's command sends reports and installs packages: not used.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _tools
import MNN.expr
import MNN.nn
from child import Run, serve


def load(path: str, rows: Any) -> Run:
    written = Path(f"{path}.mnn")
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", str(written), "--bizCode", "x"])
    if not written.is_file():
        raise RuntimeError("the converter wrote nothing (it prints: These Op Not Support: ONNX::Conv)")
    network = MNN.nn.load_module_from_file(str(written), ["input"], ["logits"])

    def run() -> Any:
        output = network.forward([MNN.expr.const(rows, list(rows.shape), MNN.expr.NCHW)])[0]
        return MNN.expr.convert(output, MNN.expr.NCHW).read()

    return run


if __name__ == "__main__":
    serve(load, "MNN")
