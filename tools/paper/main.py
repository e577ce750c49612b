"""tools/experiments WHAT [options] [--write]: run that experiment; --write puts its table into docs/ too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.command import run

NAMES = ("brecq", "asymmetric", "runtime", "predict", "ablation", "pairs")

if __name__ == "__main__":
    raise SystemExit(run("tools/experiments", "paper", NAMES, "experiment-", sys.argv[1:], plots=True))
