"""Inputs of sensitivities; results that several of them need are computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from onnx import ModelProto

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data, thinned
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable

Costs = Mapping[str, Mapping[Scheme, float]]
"""Cost of each candidate of each weight, in one unit for all weights; the costs of a plan add up."""

ANCHORS = (3, 5)
"""Widths in bits at which the network's reaction to a weight is measured; the cost of other candidates is proportional
to their layer's own error.
"""

_MOST_ROWS = 64
"""Most samples that are run, twice for every weight; bounds time."""


Measure = Callable[["Measurement"], Costs]
"""A sensitivity: the cost of every candidate."""


class Measurement:
    """A model, the errors of its candidates, and samples.

    Args:
        table: The weights whose costs are measured.
        model: The float model.
        weights: All weights of the model, by name.
        fit: Samples for calibration; None where there are none.
        held: Samples on which outputs are compared, to which nothing is fitted.
        progress: Called during the measurement.
    """

    def __init__(
        self,
        table: ErrorTable,
        model: ModelProto,
        weights: Mapping[str, LocatedWeight],
        fit: Data | None = None,
        held: Data | None = None,
        progress: Progress = quiet,
    ) -> None:
        self.table, self.model, self.weights, self.progress = table, model, weights, progress
        self._fit, self._held = fit, held
        self._known: dict[Measure, Costs] = {}

    def of(self, measure: Measure) -> Costs:
        """What a sensitivity measures here; once, however many others are built on it."""
        if measure not in self._known:
            self._known[measure] = measure(self)
        return self._known[measure]

    @property
    def fit(self) -> Data:
        """Samples for calibration."""
        assert self._fit is not None
        return self._fit

    @cached_property
    def held(self) -> Data:
        """Samples for the comparison of outputs, at most `_MOST_ROWS`."""
        assert self._held is not None
        return thinned(self._held, _MOST_ROWS)

    @cached_property
    def second_moments(self) -> Mapping[str, SecondMoments]:
        """Second moments of the inputs of each weight, without weights whose inputs cannot be read."""
        measured = {name: self.weights[name] for name in self.table}
        return Calibration(self.model, measured, self.fit).second_moments(list(self.table))


def anchors(errors: ErrorRow) -> list[Scheme]:
    """The candidates nearest to ANCHORS, of the first granularity.

    Args:
        errors: The candidates of a weight.

    Returns:
        One or two schemes, the narrower first.
    """
    grid = errors.candidates[0].scheme.grid
    schemes = [cell.scheme for cell in errors.candidates if cell.scheme.grid == grid]
    return list(dict.fromkeys(min(schemes, key=lambda s: abs(s.bits - bits)) for bits in ANCHORS))
