"""tools/bench WHAT [options] [--write]: run the benchmark of that name; --write puts its table into docs/ too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.command import run

NAMES = (
    "search",
    "kernels",
    "load",
    "models",
    "releases",
    "accuracy",
    "choices",
    "data_free",
    "told",
    "time",
    "speed",
    "consumers",
    "memory",
    "decoders",
)
MODULES = {"time": "time_runs"}

if __name__ == "__main__":
    raise SystemExit(run("tools/bench", "benchmarks", NAMES, "", sys.argv[1:], modules=MODULES))
