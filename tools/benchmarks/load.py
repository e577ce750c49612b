"""Load time and peak memory of every width against float, for 25 million Conv weights."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

import mixquant_onnx as mq
from benchmarks.shapes import chain
from benchmarks.timing import table, versions

_CHILD = """
import json, sys, time
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
start = time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], options)
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, peak / 1024]))
"""


def load_once(path: Path) -> tuple[float, float, str]:
    """(seconds, peak megabytes, what was printed as a warning) of a fresh process."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak, done.stderr.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench load", description=__doc__)
    parser.add_argument("--granularity", default="channel")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    model = chain()
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": Path(folder) / "float.onnx"}
        onnx.save(model, files["float"])
        for bits in range(2, 9):
            files[f"{bits} bits"] = Path(folder) / f"{bits}.onnx"
            mq.quantize(
                files["float"], files[f"{bits} bits"], bits=[bits], granularity=args.granularity, verify=False,
                rounding="nearest",
            )  # fmt: skip
        results: dict[str, list[tuple[float, float, str]]] = {name: [] for name in files}
        for _ in range(args.rounds):
            for name, path in files.items():
                results[name].append(load_once(path))
        print(f"# Load: granularity {args.granularity}\n\n{versions()}; medians of {args.rounds} fresh processes.\n")
        rows = []
        base = [statistics.median(r[k] for r in results["float"]) for k in (0, 1)]
        for name, found in results.items():
            seconds, peak = (statistics.median(r[k] for r in found) for k in (0, 1))
            size = files[name].stat().st_size / 1e6
            warned = "yes" if any(r[2] for r in found) else "no"
            rows.append(
                [name, f"{size:.1f}", f"{seconds:.2f} s", f"{seconds / base[0]:.2f}", f"{peak:.0f} MB",
                 f"{peak / base[1]:.2f}", warned]
            )  # fmt: skip
    print(table(["weights", "MB", "load", "/ float", "peak", "/ float", "warnings"], rows))
    return 0
