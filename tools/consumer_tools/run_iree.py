"""IREE: imported, compiled for the processor and run in its own virtual machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import iree.runtime
from child import Run, serve

TARGET = ("--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu")


def _command(name: str, *arguments: str) -> None:
    done = subprocess.run([str(Path(sys.executable).parent / name), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        line = next((line for line in done.stderr.splitlines() if "rror" in line), done.stderr[-200:])
        operator = re.search(r'name = "([\w.]+)"', line)
        raise RuntimeError(f"{name} does not know {operator[1]}" if operator else line)


def load(path: str, rows: Any) -> Run:
    _command("iree-import-onnx", path, "-o", f"{path}.mlir")
    _command("iree-compile", f"{path}.mlir", *TARGET, "-o", f"{path}.vmfb")
    module = iree.runtime.load_vm_flatbuffer_file(f"{path}.vmfb", driver="local-task")
    names = module.vm_module.function_names
    function = module[next(name for name in names if not name.startswith("__") and "$" not in name)]
    return lambda: function(rows).to_host()


if __name__ == "__main__":
    serve(load, "iree-base-compiler")
