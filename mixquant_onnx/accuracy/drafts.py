"""Accuracy of plans that are put together from the table, without quantizing anything again."""

from __future__ import annotations

from onnx import ModelProto

from mixquant_onnx.accuracy.bisection import MOST_BITS, Verdict
from mixquant_onnx.accuracy.target import judge_quality
from mixquant_onnx.config.stages import AccuracyOptions, BudgetOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.model.substitute import with_weights
from mixquant_onnx.planning.allocation import Priced, plan_of_bits
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.solved_table import SolvedTable
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.labels import float_accuracy
from mixquant_onnx.verification.next_tokens import token_output
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
        model: The float model.
        target: The accuracy target.
        solved: The quantized candidates.
        evaluation: Samples to judge on.

    Raises:
        DataError: The model does not run on the samples.
        RuntimeFailure: It does not load.
    """

    def __init__(self, model: ModelProto, target: AccuracyOptions, solved: SolvedTable, evaluation: Data) -> None:
        self._target, self._solved, self._evaluation = target, solved, evaluation
        self.count = 0
        session = Session(model)
        self._reference = reference_outputs(session, evaluation)
        self._axes = class_axes(model, self._reference, session.outputs)
        self._tokens = token_output(session, evaluation, self._reference, self._axes)
        share = float_accuracy(self._reference, evaluation, session.outputs, self._axes)
        self._float_accuracy = None if share is None else share.value

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
        model = with_weights(planned.loaded.model, planned.sites, self._solved.tensors(planned.plan.sites))
        quality = session_quality(self._reference, Session(model), self._evaluation, self._axes, self._tokens)
        self.count += 1
        kept, score, _ = judge_quality(quality, self._float_accuracy, self._target)
        return Verdict(kept=kept, score=score)
