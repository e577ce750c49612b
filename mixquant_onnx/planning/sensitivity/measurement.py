"""Inputs of sensitivities; results that several of them need are computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, thinned
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable
from mixquant_onnx.planning.solved_table import SolvedTable, solve_table
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.verification.next_tokens import TokenOutput, tokens_of_model

Costs = Mapping[str, Mapping[Scheme, float]]
"""Cost of each candidate of each weight, in one unit for all weights; the costs of a plan add up."""

_ANCHORS = (4,)
"""Widths in bits at which the network's reaction to a weight is measured; the cost of other candidates is proportional
to their layer's own error.
"""

_MORE_ANCHORS = (3, 5)
"""The same where more effort is wanted, and of pairs."""

_MOST_ROWS = 64
"""Most samples that are run, for every weight and anchor; bounds time."""


Measure = Callable[["Measurement"], Costs]
"""A sensitivity: the cost of every candidate."""


class Measurement:
    """A model, the errors of its candidates, and samples.

    Args:
        table: The weights whose costs are measured.
        model: The float model.
        weights: All weights of the model, by name.
        work: The rows, and where results are kept.
        progress: Called during the measurement.
    """

    def __init__(
        self,
        table: ErrorTable,
        model: ModelProto,
        weights: Mapping[str, LocatedWeight],
        work: Workspace | None = None,
        progress: Progress = quiet,
    ) -> None:
        self.table, self.model, self.weights, self.progress = table, model, weights, progress
        self.work = work or Workspace()
        self._known: dict[Measure, Costs] = {}

    def of(self, measure: Measure) -> Costs:
        """What a sensitivity measures here; once, however many others are built on it."""
        if measure not in self._known:
            self._known[measure] = measure(self)
        return self._known[measure]

    @property
    def fit(self) -> Data:
        """Samples for calibration."""
        assert self.work.split is not None
        return self.work.split.calibration

    @cached_property
    def held(self) -> Data:
        """Samples for the comparison of outputs, at most `_MOST_ROWS`."""
        assert self.work.split is not None
        return thinned(self.work.split.selection, _MOST_ROWS)

    @cached_property
    def tokens(self) -> TokenOutput | None:
        """Where the model gives the distribution of the next token; None where it does not, or without samples."""
        return None if self.work.split is None else tokens_of_model(self.model, self.held)

    def anchors(self, name: str) -> list[Scheme]:
        """The candidates at which the network's reaction to a weight is measured."""
        return anchors(self.table[name], _MORE_ANCHORS if self.work.effort == "thorough" else _ANCHORS)

    @cached_property
    def solved(self) -> SolvedTable:
        """The quantized candidates; solved at the first call."""
        return solve_table(self.table, self.model, self.weights, self.fit, self.work, self.progress)


def anchors(errors: ErrorRow, widths: Sequence[int] = _MORE_ANCHORS) -> list[Scheme]:
    """The candidates nearest to some widths, of the first granularity.

    Args:
        errors: The candidates of a weight.
        widths: The widths, in bits.

    Returns:
        As many schemes or fewer, the narrower first.
    """
    grid = errors.candidates[0].scheme.grid
    schemes = [cell.scheme for cell in errors.candidates if cell.scheme.grid == grid]
    return list(dict.fromkeys(min(schemes, key=lambda s: abs(s.bits - bits)) for bits in widths))
