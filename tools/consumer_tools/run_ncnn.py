"""ncnn, from what its converter pnnx writes; one row at a time, in float32."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from child import Run, serve


def _convert(path: str, rows: Any) -> Path:
    shape = "x".join(str(size) for size in (1, *rows.shape[1:])).replace("x", ",")
    base = Path(path).with_suffix("")
    package = importlib.util.find_spec("pnnx")
    command = [str(Path(package.origin).parent / "pnnx"), path, f"inputshape=[{shape}]", "fp16=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base.parent)
    found = base.parent / f"{base.name.replace('.', '_').replace('-', '_')}.ncnn.param"
    if not found.is_file():
        told = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line or "nvalid" in line]
        raise RuntimeError(told[-1] if told else f"pnnx wrote no {found.name}")
    return found


def load(path: str, rows: Any) -> Run:
    parameters = _convert(path, rows)
    network = ncnn.Net()
    network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = network.opt.use_fp16_packed = False
    network.opt.use_bf16_storage = False
    if network.load_param(str(parameters)) or network.load_model(str(parameters.with_suffix(".bin"))):
        raise RuntimeError("ncnn does not load what pnnx wrote")

    def run() -> Any:
        outputs = []
        for row in rows:
            extractor = network.create_extractor()
            extractor.input("in0", ncnn.Mat(np.ascontiguousarray(row)).clone())
            code, output = extractor.extract("out0")
            if code:
                raise RuntimeError(f"extract gave {code}")
            outputs.append(np.array(output))
        return outputs

    return run


if __name__ == "__main__":
    serve(load, "ncnn")
