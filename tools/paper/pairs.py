"""Do layers of a block interact? Of the error that a layer alone makes at the logits, the share that a later layer
makes up for when both are quantized, the second on inputs as the first left them: (first + second - both) / first. For
the pairs within blocks and for as many pairs of any two layers, at some widths of the first and the second."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
from benchmarks.timing import table, versions

import mixquant_onnx as mq
from mixquant_onnx.model.blocks import find_blocks
from mixquant_onnx.planning.plan import Plan
from paper.plans import Plans
from paper.plots import Panels, add, draw
from paper.subjects import Subject, options, subjects, with_few

Pair = tuple[str, str]


def main(arguments: list[str]) -> int:
    parser = options("pairs", __doc__)
    parser.add_argument("--bits", default="3/3,3/5,5/5", help="widths of the first and the second layer")
    parser.add_argument("--method", default="gptq")
    args = parser.parse_args(arguments)
    print(f"# Do layers of a block interact?\n\n{versions()}.\n{__doc__.split('? ')[1]}\nMethod {args.method}.\n")
    rows: list[list[object]] = []
    panels: Panels = {}
    for one in map(with_few, subjects(args)):
        plans = Plans(one, 256)
        within, any_two = _pairs(plans)
        effect = _Effects(one, plans, args.method)
        for place, widths in enumerate(args.bits.split(",")):
            first, second = map(int, widths.split("/"))
            found = [[effect.share(pair, first, second) for pair in pairs] for pairs in (within, any_two)]
            shown = [f"{np.median(v):+.2f} ({np.quantile(v, 0.25):+.2f} to {np.quantile(v, 0.75):+.2f})" for v in found]
            rows.append([one.name, widths, len(within), *shown])
            print(*rows[-1], file=sys.stderr, flush=True)
            for label, values in zip(("within a block", "any two"), found, strict=True):
                add(panels, one.name, label, *((place, float(value)) for value in values))
    print(table(["model", "bits", "pairs", "within a block: median (quartiles)", "any two layers"], rows))
    draw(args.plot, panels, "bits", "share made up for", lines=False, ticks=args.bits.split(","))
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

    def __init__(self, one: Subject, plans: Plans, method: str) -> None:
        self._one, self._plans, self._method = one, plans, method
        self._reference = one.logits(one.path)
        self._known: dict[tuple[tuple[str, int], ...], float] = {}

    def of(self, *layers: tuple[str, int]) -> float:
        """With each of `layers` at its bits."""
        if layers not in self._known:
            plan = Plan(sites={name: self._plans.uniform(bits)[name] for name, bits in layers})
            model: mq.RunResult = self._plans.run(plan, self._method)
            self._known[layers] = self._one.figures(model.model, self._reference)[2]
        return self._known[layers]

    def share(self, pair: Pair, bits: int, later_bits: int) -> float:
        """Of the first's error, what the second makes up for; below 0 where both are worse than each alone."""
        first, second = (pair[0], bits), (pair[1], later_bits)
        return (self.of(first) + self.of(second) - self.of(first, second)) / self.of(first)
