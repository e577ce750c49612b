"""Experiment 1: BRECQ with the same bits for all layers against MixQuant + BRECQ at the same bytes, over seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from benchmarks.timing import table, versions

import mixquant_onnx as mq
from paper.subjects import Subject, options, subjects


def main(arguments: list[str]) -> int:
    parser = options("brecq", __doc__)
    parser.add_argument("--bits", default="4,3", help="of uniform BRECQ; 2.5: no uniform plan, MixQuant alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=512, help="of calibration data")
    args = parser.parse_args(arguments)
    print(f"# BRECQ with and without MixQuant\n\n{versions()}; {args.seeds} seeds: mean and standard deviation.\n")
    rows: list[list[object]] = []
    for one in subjects(args):
        reference = one.logits(one.path)
        rows.append([one.name, "float", "-", f"{one.path.stat().st_size}",
                     f"{(reference.argmax(1) == one.labels).mean():.4f}", "1.0000", "0"])  # fmt: skip
        for bits in (float(b) for b in args.bits.split(",")):
            rows += _at(one, reference, bits, range(args.seeds), args.rows)
    print(table(["model", "plan", "bits", "bytes", "top-1", "agreement", "logit error"], rows))
    return 0


def _at(one: Subject, reference: np.ndarray, bits: float, seeds: range, count: int) -> list[list[object]]:
    data = {"input": one.calibration[:count]}
    rows: list[list[object]] = []

    def add(label: str, chosen: Mapping[str, Any]) -> None:
        rows.append([one.name, label, f"{bits:g}", *_over(one, reference, data, chosen, seeds)])
        print(*rows[-1], file=sys.stderr, flush=True)

    if bits == int(bits):
        add("BRECQ", {"bits": int(bits)})
        add("MixQuant + BRECQ", {"max_size": f"{rows[0][3]}B"})
    else:
        add("MixQuant + BRECQ", {"avg_bits": bits})
    return rows


def _over(
    one: Subject, reference: np.ndarray, data: Mapping[str, Any], chosen: Mapping[str, Any], seeds: range
) -> list[str]:
    """Bytes, and top-1, agreement and logit error over `seeds`."""
    found, nbytes = [], 0
    for seed in seeds:
        result = mq.quantize(one.path, method="brecq", data=dict(data), seed=seed, verify=False, **chosen)
        found.append(one.figures(result.model, reference))
        nbytes = result.nbytes_after
    columns = np.array(found).T
    shown = [f"{c.mean():.4f} ± {c.std():.4f}" for c in columns[:2]]
    return [str(nbytes), *shown, f"{columns[2].mean():.4g} ± {columns[2].std():.2g}"]
