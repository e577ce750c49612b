"""Experiment 3: run time of the search on ResNet-sized weights, for one QEM and for ten."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from benchmarks.search import sites
from benchmarks.shapes import weights
from benchmarks.timing import table, versions

from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.planning.allocators.qem import allocate
from mixquant_onnx.planning.error_table import site_errors
from paper.plots import draw

QEMS = tuple(2.0**k for k in range(10))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/experiments runtime", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="draw into this SVG file (needs matplotlib)")
    args = parser.parse_args(arguments)
    print(f"# Run time of the search\n\n{versions()}; medians of {args.rounds}.\n")
    rows = []
    lines: dict[str, list[tuple[float, float]]] = {"one QEM": [], "ten QEMs": []}
    for depth in (18, 50, 101, 152):
        tensors = weights(depth)
        total = sum(w.size for w in tensors)
        times = [_timed(tensors) for _ in range(args.rounds)]
        search, one, ten = (float(np.median(column)) for column in zip(*times, strict=True))
        rows.append(
            [f"ResNet-{depth}", len(tensors), f"{total / 1e6:.1f}", f"{search:.3f} s",
             f"{1e9 * search / total / 7:.2f}", f"{search + one:.3f} s",
             f"{search + ten:.3f} s", f"{(search + ten) / (search + one):.3f}"]
        )  # fmt: skip
        for name, allocation in (("one QEM", one), ("ten QEMs", ten)):
            lines[name].append((total / 1e6, search + allocation))
    header = ["weights of", "layers", "million", "search, 7 widths", "ns a weight and width", "with one QEM"]
    print(table([*header, "with ten", "ratio"], rows))
    draw(args.plot, {"ResNet-18, 50, 101, 152": lines}, "million weights", "seconds")
    return 0


def _timed(tensors: list[np.ndarray]) -> tuple[float, float, float]:
    """Seconds of the search, of one allocation, of ten."""
    located = sites(tensors)
    start = time.perf_counter()
    options = SearchOptions(method="minmax")
    errors = {s.name: site_errors(s, weight, options) for s, weight in zip(located, tensors, strict=True)}
    searched = time.perf_counter()
    allocate(errors, 2.0)
    once = time.perf_counter()
    for qem in QEMS:
        allocate(errors, qem)
    return searched - start, once - searched, time.perf_counter() - once
