"""TVM: the importer of Relax, compiled for the processor."""

from __future__ import annotations

from typing import Any

import onnx
import tvm
from child import Run, serve
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx


def load(path: str, rows: Any) -> Run:
    model = onnx.load(path)
    module = from_onnx(model, shape_dict={model.graph.input[0].name: list(rows.shape)}, keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run() -> Any:
        output = machine["main"](tvm.runtime.tensor(rows))
        return (output if hasattr(output, "numpy") else output[0]).numpy()

    return run


if __name__ == "__main__":
    serve(load, "apache-tvm")
