"""What the plans of a sweep are compared with: plain int8 and float."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.pipeline import execute
from mixquant_onnx.planning.allocation import Priced, baseline_cost
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.planned import fit_plan, size_of
from mixquant_onnx.result import Execution
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.tradeoff.point import Point, with_quality
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.labels import float_accuracy

PLAIN_INT8 = "plain int8"
"""What plans are compared with: all weights at 8 bits, asymmetric, rounded to nearest, one scale for each tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the plans of a sweep are compared with.

    Attributes:
        plain_int8: The plan `PLAIN_INT8`; None where it cannot be made.
        float_accuracy: Top-1 accuracy of the float model, from 0 to 1; None without labels.
    """

    plain_int8: Point | None = None
    float_accuracy: float | None = None


def reference(priced: Priced, execution: Execution, name: str) -> Reference:
    """Make, and if `execution` verifies also run, what plans are compared with.

    Args:
        priced: Costs of the candidates.
        execution: How plans are run.
        name: Name of the model, for messages.

    Returns:
        The plan of plain int8, and the accuracy of the float model.
    """
    split = execution.split
    judged = execution.checks.verify and split is not None
    exact = _float_accuracy(priced, split.evaluation) if split is not None and judged else None
    return Reference(plain_int8=_plain_int8(priced, execution, name), float_accuracy=exact)


def _float_accuracy(priced: Priced, data: Data) -> float | None:
    if data.labels is None:
        return None
    loaded = priced.searched.loaded
    session = Session(loaded.float_model)
    outputs = reference_outputs(session, data)
    found = float_accuracy(outputs, data, session.outputs, class_axes(loaded.model, outputs, session.outputs))
    return None if found is None else found.value


def _plain_int8(priced: Priced, execution: Execution, name: str) -> Point | None:
    """None where layers run on integers: their weights may have fewer than 8 bits only."""
    searched = priced.searched
    if searched.form.integer is not None or not searched.table:
        return None
    scheme = Scheme(bits=8, grid=Granularity.parse("tensor"))
    plan = Plan(sites=dict.fromkeys(searched.table, scheme), skipped=searched.skipped, allocator=PLAIN_INT8)
    planned = fit_plan(searched.loaded, plan, 1, searched.form)
    rows = [planned.table[site] for site in planned.plan.sites]
    taken, elements = sum(row.candidates[0].nbytes for row in rows), sum(row.elements for row in rows)
    cost = sum(baseline_cost(searched.table[row.site], priced.costs[row.site]) for row in rows)
    made = Point(setting=PLAIN_INT8, nbytes=size_of(planned), average_bits=bits_per_weight(taken, elements), cost=cost)
    if not execution.checks.verify or execution.split is None:
        return made
    checks = replace(execution.checks, allow_unchanged=True)
    result = execute(planned, Execution(split=execution.split, rounding=_NEAREST, checks=checks), None, name)
    if result.verification is None or result.verification.deployed is None:
        return made
    return with_quality(made, result.verification.deployed, execution.split.evaluation, finished=True)


_NEAREST = RoundingOptions(rounding="nearest")
