"""Accuracy of plans that are put together from the table, without quantizing anything again."""

from __future__ import annotations

from functools import cached_property

from mixquant_onnx.accuracy.bisection import MOST_BITS, Verdict
from mixquant_onnx.accuracy.target import judge_quality
from mixquant_onnx.config.stages import AccuracyOptions, BudgetOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.model.substitute import editable_copy, replace_weight
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.planning.allocation import Priced, plan_of_bits
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.solved_table import SolvedTable
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.labels import float_accuracy
from mixquant_onnx.verification.quality import session_quality


def plan_at(priced: Priced, bits: float) -> Planned:
    """The plan of a trial; above `MOST_BITS` weights may stay float.

    Args:
        priced: Costs of the candidates.
        bits: Bits per weight.

    Returns:
        The plan.
    """
    return plan_of_bits(priced, BudgetOptions(), bits, floats=bits > MOST_BITS)


class Drafts:
    """Judges plans by float models in which weights are replaced by the table's.

    Args:
        target: The accuracy target.
        solved: The quantized candidates.
        evaluation: Samples to judge on.
    """

    def __init__(self, target: AccuracyOptions, solved: SolvedTable, evaluation: Data) -> None:
        self._target, self._solved, self._evaluation = target, solved, evaluation
        self._float: Session | None = None

    def probe(self, priced: Priced, bits: float) -> Verdict:
        """Judge the plan of a number of bits.

        Args:
            priced: Costs of the candidates.
            bits: Bits per weight.

        Returns:
            The verdict.

        Raises:
            DataError: The target cannot be judged on the data.
            RuntimeFailure: The model does not run.
        """
        planned = plan_at(priced, bits)
        model, places = editable_copy(planned.loaded.model, planned.sites)
        for name, scheme in planned.plan.sites.items():
            replace_weight(places[name], self._solved.tensor(name, scheme))
        session = self._float_session(planned)
        quality = session_quality(self._outputs, Session(model), self._evaluation, self._axes)
        accuracy = float_accuracy(self._outputs, self._evaluation, session.outputs, self._axes)
        kept, score, _ = judge_quality(quality, None if accuracy is None else accuracy.value, self._target)
        return Verdict(kept=kept, score=score)

    def _float_session(self, planned: Planned) -> Session:
        if self._float is None:
            self._float = Session(planned.loaded.model)
            self._model = planned.loaded.model
        return self._float

    @cached_property
    def _outputs(self) -> Outputs:
        assert self._float is not None
        return reference_outputs(self._float, self._evaluation)

    @cached_property
    def _axes(self) -> dict[str, int]:
        assert self._float is not None
        return dict(class_axes(self._model, self._outputs, self._float.outputs))
