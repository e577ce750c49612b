"""What later layers of a block make up for: a table of pairs, as layers have one of their own (BRECQ, Li et al. 2021,
arXiv 2102.05426, section 3.4, where effects inside a block are looked up)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from onnx import ModelProto

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.blocks import Block, find_blocks
from mixquant_onnx.model.substitute import editable_copy, put, replace_weight
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.sensitivity.costs import anchors, few
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, Session

Shares = Mapping[tuple[str, str], float]
"""Of the first of two weights: the share of its error at the network's outputs that the second makes up for, below 0
where both are worse together than each alone."""


def made_up_for(
    table: ErrorTable, model: ModelProto, sites: Mapping[str, LocatedSite], fit: Data, held: Data,
    progress: Progress = quiet,
) -> Shares:  # fmt: skip
    """For each two weights of a block, in the order of the graph.

    The first is quantized at the lower anchor width on `fit`, the second at the higher one on inputs as the first left
    them, which it is fitted to; measured on `held`. Where the second's own error hides little, the share hardly depends
    on the width of the first (docs/experiment-pairs.md).
    Empty where the model does not run.
    """
    blocks = [block for block in find_blocks(model, sites, table) if len(block.sites) > 1]
    if not blocks:
        return {}
    found: dict[tuple[str, str], float] = {}
    try:
        measured = _Measured(table, model, sites, fit, held)
        for position, block in enumerate(blocks):
            found.update(measured.of(block))
            progress("measure pairs", position + 1, len(blocks))
    except RuntimeFailure:
        return {}
    return found


class _Measured:
    def __init__(
        self, table: ErrorTable, model: ModelProto, sites: Mapping[str, LocatedSite], fit: Data, held: Data
    ) -> None:
        self._table, self._sites = table, sites
        self._calibration = Calibration(model, {name: sites[name] for name in table}, fit)
        self._current, self._replaced = editable_copy(model)
        self._own, self._changed = self._calibration.float_stream(), self._calibration.stream(self._current)
        self._held = few(held)
        self._reference = run_all(Session(model), self._held)

    def of(self, block: Block) -> dict[tuple[str, str], float]:
        members = [name for name in self._calibration.order if name in block.sites]
        for stream in (self._own, self._changed):
            self._calibration.advance(members[:1], stream)
        coarse = {name: self._solved(name, 0) for name in members[:-1]}
        before = {name: self._noise({name: q}) for name, q in coarse.items()}
        alone = {name: self._noise({name: self._solved(name, -1)}) for name in members[1:]}
        found = {}
        for a, b in combinations(members, 2):
            replace_weight(self._replaced[a], coarse[a])
            both = self._noise({a: coarse[a], b: self._solved(b, -1)})
            found[a, b] = _share(before[a], alone[b], both)
        return found

    def _solved(self, name: str, anchor: int) -> Quantized:
        """At one of its anchor widths, on inputs as they now are."""
        inputs = self._calibration.collect([name], self._own.fork(), self._changed.fork()).get(name)
        located, scheme = self._sites[name], surrogate(anchors(self._table[name])[anchor])
        return quantize_weight(located.site, weight_values(located), scheme, inputs)

    def _noise(self, quantized: Mapping[str, Quantized]) -> float:
        """At the outputs, with some weights `quantized`, which are put back."""
        for name, q in quantized.items():
            replace_weight(self._replaced[name], q)
        noise = relative_noise(self._reference, run_all(Session(self._current), self._held))
        for name in quantized:
            put(self._replaced[name], weight_values(self._sites[name]))
        return noise


def _share(first: float, second: float, both: float) -> float:
    """0 where there is nothing to make up for."""
    return (first + second - both) / first if first > 0 and math.isfinite(first + second + both) else 0.0
