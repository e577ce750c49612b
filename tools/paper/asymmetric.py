"""Experiment 2: vanilla asymmetric quantization (min-max, one scale a tensor, rounded to nearest) with the same bits
for all layers, and with MixQuant's over QEM 1..8192: accuracy against size."""

from __future__ import annotations

import sys

from benchmarks.timing import table, versions

import mixquant_onnx as mq
from paper.plots import Panels, add, draw
from paper.subjects import options, subjects

QEMS = tuple(2**k for k in range(14))
PLAIN = {"method": "minmax", "granularity": "tensor", "rounding": "nearest", "verify": False}


def main(arguments: list[str]) -> int:
    args = options("asymmetric", __doc__).parse_args(arguments)
    print(f"# Asymmetric quantization with and without MixQuant\n\n{versions()}; no data is used.\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in subjects(args):
        reference = one.logits(one.path)
        rows.append([one.name, "float", f"{one.path.stat().st_size / 1e6:.3f}", "32",
                     f"{(reference.argmax(1) == one.labels).mean():.4f}", "1.0000", "0"])  # fmt: skip
        plans = [(f"{bits} bits", {"bits": bits}) for bits in range(8, 1, -1)]
        plans += [(f"QEM {qem}", {"qem": float(qem)}) for qem in QEMS]
        last = None
        for label, chosen in plans:
            result = mq.quantize(one.path, **PLAIN, **chosen)
            if dict(result.plan.sites) == last:
                continue
            last = dict(result.plan.sites)
            top, agreement, error = one.figures(result.model, reference)
            rows.append([one.name, label, f"{result.nbytes_after / 1e6:.3f}", f"{result.average_bits:.2f}",
                         f"{top:.4f}", f"{agreement:.4f}", f"{error:.3g}"])  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
            series = "MixQuant" if label.startswith("QEM") else "the same bits"
            add(panels, one.name, series, (result.nbytes_after / 1e3, top))
    print(table(["model", "plan", "MB", "bits", "top-1", "agreement", "logit error"], rows))
    print("\nA QEM whose plan is that of the QEM before is left out.")
    draw(args.plot, panels, "kB", "top-1")
    return 0
