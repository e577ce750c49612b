"""Many plans from one measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.errors import OptionError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.draft import rewritten_copy, stored_size
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.pipeline import execute, within_rule
from mixquant_onnx.planning.allocation import Priced, by_rule, plan_of_bits, plan_priced
from mixquant_onnx.planning.bounds import plan_from_table
from mixquant_onnx.planning.planned import Planned, size_of
from mixquant_onnx.planning.solved_table import SolvedTable, solve_table
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.methods import is_calibrated
from mixquant_onnx.result import Execution
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.tradeoff.point import Point, marked, with_quality
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.next_tokens import TokenOutput, token_output
from mixquant_onnx.verification.quality import session_quality


def sweep(
    priced: Priced,
    budget: BudgetOptions,
    execution: Execution,
    work: Workspace,
    qems: Sequence[float],
    bits: Sequence[float],
    name: str,
    progress: Progress = quiet,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Point]:
    """Make, and if `execution` verifies also run, many plans.

    Plans are run on samples to which nothing is fitted. Those of calibrated methods are put together from the table of
    solved weights, unless the effort is thorough. Numbers of bits that are too small are left out, and reported.

    Args:
        priced: Costs of the candidates.
        budget: Its scope applies to the plans of `qems`.
        execution: How plans are run.
        work: Where results are kept, and how much is run.
        qems: One plan by QEM for each.
        bits: One plan with that many bits per weight for each.
        name: Name of the model, for messages.
        progress: Called after each plan.
        tell: Called with a line on what is left out.

    Returns:
        The points, smallest first.

    Raises:
        OptionError: No plan is left.
        DataError: The float model gives NaN on the samples.
    """
    plans = _plans(priced, budget, qems, bits, tell)
    execution = replace(execution, checks=replace(execution.checks, allow_unchanged=True))
    table = _table(priced, work, progress) if execution.checks.verify else None
    points = []
    for position, (setting, planned) in enumerate(plans):
        points.append(_point(setting, planned, priced, execution, table, name))
        progress("sweep", position + 1, len(plans))
    return marked(points)


def _plans(
    priced: Priced, budget: BudgetOptions, qems: Sequence[float], bits: Sequence[float], tell: Callable[[str], None]
) -> list[tuple[str, Planned]]:
    """The setting and the plan of each point. Raises OptionError where there are none."""
    plans = [(f"qem {qem:g}", _by_error(priced, replace(budget, qem=qem, avg_bits=None))) for qem in qems]
    refused = OptionError("sweep needs --qem 1,2,4 or --avg-bits 2.5..8")
    left_out: list[str] = []
    for x in bits:
        try:
            plans.append((f"avg-bits {x:g}", plan_of_bits(priced, replace(budget, avg_bits=x), x)))
        except OptionError as error:
            refused = error
            left_out.append(f"{x:g}")
    if not plans:
        raise refused
    if left_out:
        least = math.ceil(800 * priced.least_bytes / max(priced.elements, 1)) / 100
        tell(
            f"below the smallest possible, {least:.2f} bits a weight with scales and zero points: "
            f"--avg-bits {', '.join(left_out)} left out"
        )
    return plans


def _by_error(priced: Priced, budget: BudgetOptions) -> Planned:
    if budget.scope == "model":
        return plan_priced(priced, budget)
    return by_rule(priced.searched, budget)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Table:
    """What plans are put together from, and compared with.

    Attributes:
        solved: Every weight at every width.
        split: The samples.
        reference: Outputs of the float model on those for evaluation.
        axes: Class axis, by name of the output.
        tokens: Where the model gives the distribution of the next token; None where it does not.
    """

    solved: SolvedTable
    split: DataSplit
    reference: Outputs
    axes: Mapping[str, int]
    tokens: TokenOutput | None


def _table(priced: Priced, work: Workspace, progress: Progress) -> _Table | None:
    """The table of solved weights; None where a plan is only known by a complete run."""
    split, searched = work.split, priced.searched
    methods = {cell.scheme.method for row in searched.table.values() for cell in row.candidates}
    if split is None or work.effort == "thorough" or not any(map(is_calibrated, methods)):
        return None
    model = searched.loaded.model
    try:
        session = Session(searched.loaded.float_model)
        solved = solve_table(searched.table, model, searched.sites, split.calibration, work, progress)
    except RuntimeFailure:
        return None
    reference = reference_outputs(session, split.evaluation)
    axes = class_axes(model, reference, session.outputs)
    tokens = token_output(session, split.evaluation, reference, axes)
    return _Table(solved=solved, split=split, reference=reference, axes=axes, tokens=tokens)


def _point(
    setting: str, planned: Planned, priced: Priced, execution: Execution, table: _Table | None, name: str
) -> Point:
    if not execution.checks.verify:
        return _before_quality(setting, planned.plan.sites, priced, size_of(planned))
    made = None if table is None else _from_table(setting, planned, priced, table)
    return made or _finished(setting, planned, priced, execution, name)


def _from_table(setting: str, planned: Planned, priced: Priced, table: _Table) -> Point | None:
    """The point of a plan put together from the table; None where only a complete run tells what becomes of it."""
    planned, layers = within_rule(planned, table.split, lambda made: plan_from_table(made, table.solved))
    model, _ = rewritten_copy(planned.loaded.model, planned.sites, layers.quantized, planned.form)
    size, data = stored_size(model, planned.loaded), table.split.evaluation
    if not layers.quantized or size >= planned.loaded.nbytes:
        return None
    try:
        quality = session_quality(table.reference, Session(model), data, table.axes, table.tokens)
    except RuntimeFailure:
        return None
    return with_quality(_before_quality(setting, planned.plan.sites, priced, size), quality, data, finished=False)


def _finished(setting: str, planned: Planned, priced: Priced, execution: Execution, name: str) -> Point:
    """The point of a plan as a run finishes it."""
    result = execute(planned, execution, None, name)
    made = _before_quality(setting, result.plan.sites, priced, result.nbytes_after)
    deployed = result.verification.deployed if result.verification is not None else None
    if deployed is None or execution.split is None:
        return made
    return with_quality(made, deployed, execution.split.evaluation, finished=True)


def _before_quality(setting: str, chosen: Mapping[str, Scheme], priced: Priced, nbytes: int) -> Point:
    """Size and cost of the schemes in the file, which the safe rule may widen after planning."""
    table = priced.searched.table
    cost = sum(priced.costs[site][scheme] for site, scheme in chosen.items())
    taken = sum({c.scheme: c.nbytes for c in table[site].candidates}[scheme] for site, scheme in chosen.items())
    elements = sum(table[site].elements for site in chosen)
    return Point(setting=setting, nbytes=nbytes, average_bits=bits_per_weight(taken, elements), cost=cost)
