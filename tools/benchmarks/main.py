"""tools/bench WHAT: dispatch to the benchmark of that name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
NAMES = ("search", "kernels", "load", "models")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: tools/bench {{{','.join(NAMES)}}} [options]; each has --help", file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]))
