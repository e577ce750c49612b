"""Experiment 5: which part does what? Plans of the same bytes (the same bits for all layers, the paper's rule, budgets
by energy, hessian, output and block) times methods (asymmetric, mse, gptq, adaround, brecq)."""

from __future__ import annotations

import sys

import numpy as np
from benchmarks.timing import table, versions

from paper.plans import RULE, UNIFORM, Plans
from paper.plots import Panels, add, draw
from paper.subjects import options, subjects

PLANS = (UNIFORM, RULE, "weight-error", "layer-output", "network-output", "block-output")
METHODS = {"asymmetric": "minmax", "mse": "mse", "gptq": "gptq", "adaround": "adaround", "brecq": "brecq"}


def main(arguments: list[str]) -> int:
    parser = options("ablation", __doc__)
    parser.add_argument("--bits", default="3,4")
    parser.add_argument("--rows", type=int, default=512, help="of calibration data")
    parser.add_argument("--iterations", type=int, default=500, help="of adaround and brecq, a layer or block")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--plans", default=",".join(PLANS))
    args = parser.parse_args(arguments)
    methods = args.methods.split(",")
    print(f"# Which part does what?\n\n{versions()}. SQNR of the logits in dB and top-1 on labelled data, one scale")
    print("a channel; all plans of a model and width at the bytes of `uniform`.\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in subjects(args):
        reference = one.logits(one.path)
        plans = Plans(one, args.rows)
        for bits in (float(b) for b in args.bits.split(",")):
            for label, plan in plans.at(bits, args.plans.split(",")).items():
                shown = []
                for place, method in enumerate(methods):
                    result = plans.run(plan, METHODS[method], iterations=args.iterations)
                    top, _, error = one.figures(result.model, reference)
                    ratio = -10 * np.log10(error)
                    shown.append(f"{ratio:.1f} / {top:.1%}")
                    add(panels, f"{one.name}, {bits:g} bits", label, (place, ratio))
                rows.append([one.name, f"{bits:g}", label, *shown])
                print(*rows[-1], file=sys.stderr, flush=True)
    print(table(["model", "bits", "plan", *methods], rows))
    draw(args.plot, panels, "method", "SQNR of the logits, dB", ticks=methods)
    return 0
