"""tools/peers starts here: makes tools/ importable and runs the comparison."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    raise SystemExit(importlib.import_module("peer_tools.compare").main(sys.argv[1:]))
