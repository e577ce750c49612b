"""Do layers of a block interact? The error of the logits when two layers are quantized together, against the sum of
what each does alone: their correlation, for the pairs within blocks and for as many pairs of any two layers."""

from __future__ import annotations

import math
import sys
from itertools import combinations

import numpy as np
from benchmarks.timing import table, versions

import mixquant_onnx as mq
from mixquant_onnx.graph.blocks import find_blocks
from mixquant_onnx.types import BitPlan
from paper.plans import Plans
from paper.plots import Panels, add, draw
from paper.subjects import Subject, options, subjects, with_few

Pair = tuple[str, str]


def main(arguments: list[str]) -> int:
    parser = options("pairs", __doc__)
    parser.add_argument("--bits", default="2,3,4")
    parser.add_argument("--method", default="gptq")
    args = parser.parse_args(arguments)
    print(f"# Do layers of a block interact?\n\n{versions()}.\n{__doc__.split('? ')[1]}\nMethod {args.method}.\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in map(with_few, subjects(args)):
        plans = Plans(one, 256)
        within, any_two = _pairs(plans)
        for bits in (int(b) for b in args.bits.split(",")):
            effect = _Effects(one, plans, bits, args.method)
            found = [[effect.correlation(pair) for pair in pairs] for pairs in (within, any_two)]
            shown = [f"{np.mean(values):+.2f} ± {np.std(values):.2f}" for values in found]
            rows.append([one.name, bits, len(within), *shown])
            print(*rows[-1], file=sys.stderr, flush=True)
            for label, values in zip(("within a block", "any two"), found, strict=True):
                add(panels, one.name, label, *((bits, float(value)) for value in values))
    print(table(["model", "bits", "pairs", "within a block", "any two layers"], rows))
    draw(args.plot, panels, "bits", "correlation of the errors", lines=False)
    return 0


def _pairs(plans: Plans) -> tuple[list[Pair], list[Pair]]:
    """Those within blocks, and as many of any two layers, drawn by a fixed seed."""
    names = list(plans.table)
    blocks = find_blocks(plans.loaded.model, plans.sites, names)
    within = [pair for block in blocks for pair in combinations(block.sites, 2)]
    random = np.random.default_rng(0)
    every = list(combinations(names, 2))
    return within, [every[k] for k in random.choice(len(every), min(len(within), len(every)), replace=False)]


class _Effects:
    """Squared errors of the logits with some layers quantized, each measured once."""

    def __init__(self, one: Subject, plans: Plans, bits: int, method: str) -> None:
        self._one, self._plans, self._method = one, plans, method
        self._schemes = plans.uniform(bits)
        self._reference = one.logits(one.path)
        self._known: dict[tuple[str, ...], float] = {}

    def of(self, *names: str) -> float:
        if names not in self._known:
            plan = BitPlan(sites={name: self._schemes[name] for name in names})
            model: mq.RunResult = self._plans.run(plan, self._method)
            self._known[names] = self._one.figures(model.model, self._reference)[2]
        return self._known[names]

    def correlation(self, pair: Pair) -> float:
        """Of the two errors at the logits: -1 where one makes up for the other, 0 where they do not know each other."""
        first, second = self.of(pair[0]), self.of(pair[1])
        return (self.of(*pair) - first - second) / (2 * math.sqrt(first * second))
