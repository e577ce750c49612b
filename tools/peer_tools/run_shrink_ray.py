"""run_shrink_ray.py OPTIONS IN OUT: its command line, which chooses the name of its output itself."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path


def main(flags: list[str], model: Path, out: Path) -> None:
    folder = out.parent / "shrunk"
    sys.argv = ["shrink", *flags, "--output_dir", str(folder), "--output_suffix", ".onnx", str(model)]
    runpy.run_module("onnx_shrink_ray.shrink", run_name="__main__")
    (folder / f"{model.stem}.onnx").rename(out)
    folder.rmdir()


if __name__ == "__main__":
    main(json.loads(sys.argv[1])["flags"], Path(sys.argv[2]), Path(sys.argv[3]))
