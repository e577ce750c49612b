"""Experiment 4: does QE predict accuracy? Spearman's rank correlation, over the layers of a model, between what is
known of a layer and the error of the logits when it alone is quantized (mse, per channel, rounded to nearest)."""

from __future__ import annotations

import sys

import numpy as np
from benchmarks.timing import table, versions

import mixquant_onnx as mq
from mixquant_onnx.planning.plan import Plan
from paper.plans import Plans
from paper.plots import Panels, add, draw
from paper.subjects import options, subjects, with_few

COSTS = ("weight-error", "layer-output", "network-output")


def main(arguments: list[str]) -> int:
    parser = options("predict", __doc__)
    parser.add_argument("--bits", default="2,3,4")
    args = parser.parse_args(arguments)
    print(f"# Does QE predict accuracy?\n\n{versions()}.\n{__doc__.split('? ')[1]}\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in map(with_few, subjects(args)):
        reference = one.logits(one.path)
        plans = Plans(one, 256)
        for bits in (int(b) for b in args.bits.split(",")):
            schemes = plans.uniform(bits)
            effect, known = [], []
            for name, errors in plans.table.items():
                plan = Plan(sites={name: schemes[name]})
                model = mq.apply_plan(one.path, plan, verify=False, rounding="nearest").model
                effect.append(one.figures(model, reference)[2])
                qe = next(c.qe for c in errors.candidates if c.scheme == schemes[name])
                costs = [plans.cost(cost, name, schemes[name]) for cost in COSTS]
                known.append([qe, qe / errors.baseline, qe / errors.power, *costs])
            columns = np.array(known).T
            rows.append([one.name, len(effect), bits, *(f"{spearman(column, effect):.2f}" for column in columns)])
            print(*rows[-1], file=sys.stderr, flush=True)
            add(panels, one.name, f"{bits} bits", *zip(columns[2].tolist(), effect, strict=True))
    print(table(["model", "layers", "bits", "QE", "QE / int8's", "QE / mean(w^2)", *COSTS], rows))
    draw(args.plot, panels, "QE / mean(w^2)", "logit error", lines=False, log="xy")
    return 0


def spearman(first: np.ndarray, second: list[float]) -> float:
    """Of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks)[0, 1])
