"""run_onnxsim.py OPTIONS IN OUT: its command line, and once more to drop the float weights that it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from onnxsim.onnx_simplifier import main as simplify  # type: ignore[import-not-found]


def _run(*arguments: str) -> None:
    sys.argv = ["onnxsim", *arguments]
    simplify()


def main(flags: list[str], model: str, out: str) -> None:
    first = Path(out).with_suffix(".first.onnx")
    _run(model, str(first), "--no-certify", *flags)
    _run(str(first), out, "--no-certify", "--skip-constant-folding")
    first.unlink()


if __name__ == "__main__":
    main(json.loads(sys.argv[1])["flags"], sys.argv[2], sys.argv[3])
