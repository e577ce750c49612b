"""Experiment 1: BRECQ with the same bits for all layers against MixQuant + BRECQ at the same bytes, over seeds.

Beside them the paper's rule and a data-free budget, and all of them only rounded to nearest. MixQuant is what the
command line does by default. At 2.5 bits the same bits means 3 and 2 in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from benchmarks.timing import table, versions

from mixquant_onnx.planning.plan import Plan
from paper.plans import DEFAULT, RULE, UNIFORM, Plans
from paper.plots import Panels, add, draw
from paper.subjects import options, subjects

BUDGET = "weight-error"


def main(arguments: list[str]) -> int:
    parser = options("brecq", __doc__)
    parser.add_argument("--bits", default="4,3,2.5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=512, help="of calibration data")
    parser.add_argument("--iterations", type=int, default=500, help="of BRECQ, a block")
    parser.add_argument("--plans", default=f"{UNIFORM},{RULE},{BUDGET},{DEFAULT}")
    args = parser.parse_args(arguments)
    print(f"# BRECQ with and without MixQuant\n\n{versions()}; {args.seeds} seeds: mean and standard deviation.\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in subjects(args):
        reference = one.logits(one.path)
        top = f"{(reference.argmax(1) == one.labels).mean():.4f}"
        rows.append([one.name, "-", "float", "-", one.path.stat().st_size, top, "1.0000", "0"])
        plans = Plans(one, args.rows)
        for bits in (float(b) for b in args.bits.split(",")):
            done: dict[str, tuple[int, Figures]] = {}
            for label, plan in plans.at(bits, args.plans.split(",")).items():
                for method, seeds in (("mse", 1), ("brecq", args.seeds)):
                    key = f"{method} {sorted((n, s.bits) for n, s in plan.sites.items())}"
                    if key not in done:
                        done[key] = _over(plans, plan, method, seeds, args.iterations, reference)
                    size, figures = done[key]
                    how = "BRECQ" if method == "brecq" else "nearest"
                    rows.append([one.name, f"{bits:g}", label, how, size, *_shown(figures)])
                    print(*rows[-1], file=sys.stderr, flush=True)
                    error = (size / 1e3, float(np.mean(figures, axis=0)[2]))
                    add(panels, one.name, f"{label}, {how}", error)
    print("Plans that are the same are reconstructed once and shown with the same figures.\n")
    print(table(["model", "bits", "plan", "rounding", "bytes", "top-1", "agreement", "logit error"], rows))
    _compare(rows)
    draw(args.plot, panels, "kB", "logit error", log="y")
    return 0


Figures = list[tuple[float, float, float]]


def _over(
    plans: Plans, plan: Plan, method: str, seeds: int, iterations: int, reference: np.ndarray
) -> tuple[int, Figures]:
    """Bytes, and top-1, agreement and logit error for each seed."""
    found: Figures = []
    for seed in range(seeds):
        result = plans.run(plan, method, seed, iterations)
        found.append(plans.one.figures(result.model, reference))
    return result.nbytes_after, found


def _shown(figures: Figures) -> list[str]:
    mean, spread = np.mean(figures, axis=0), np.std(figures, axis=0)
    if len(figures) == 1:
        return [f"{mean[0]:.4f}", f"{mean[1]:.4f}", f"{mean[2]:.4g}"]
    shown = [f"{m:.4f} ± {s:.4f}" for m, s in zip(mean[:2], spread[:2], strict=True)]
    return [*shown, f"{mean[2]:.4g} ± {spread[2]:.2g}"]


def _compare(rows: Sequence[Sequence[object]]) -> None:
    """Prints what MixQuant in front takes off the logit error of BRECQ alone."""
    error = {tuple(r[:3]): float(str(r[7]).split()[0]) for r in rows if r[3] == "BRECQ"}
    for (name, bits, label), alone in error.items():
        together = error.get((name, bits, DEFAULT))
        if label == UNIFORM and together is not None:
            print(f"\n{name}, {bits} bits: logit error of MixQuant + BRECQ {together / alone - 1:+.0%} to BRECQ alone.")
