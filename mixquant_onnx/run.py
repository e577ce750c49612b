"""Selection of the plan of a run: by the rule, for a budget, or for an accuracy target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mixquant_onnx.accuracy.search import Tell, check_judge, keep, silent
from mixquant_onnx.accuracy.strategy import Strategy
from mixquant_onnx.config.config import Config
from mixquant_onnx.config.parsing import nbytes_of
from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.errors import OptionError, PromiseError, SlowError, counted
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.job import Job, open_job
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.model.soundness import blames_model
from mixquant_onnx.pipeline import execute, timed
from mixquant_onnx.planning.allocation import (
    Priced,
    by_rule,
    disagreements,
    plan_priced,
    price,
    price_all,
)
from mixquant_onnx.planning.error_table import Candidate, ErrorRow
from mixquant_onnx.planning.guard_goal import GuardGoal, guard_goal, quicker, stricter
from mixquant_onnx.planning.planned import Planned, planned_with, size_of
from mixquant_onnx.planning.search import Searched, widths
from mixquant_onnx.planning.selection import Entry, ranked, winner
from mixquant_onnx.planning.sensitivity.table import UNIFORM
from mixquant_onnx.planning.size_budget import added, plan_of_size
from mixquant_onnx.result import RunResult

_ONE_WIDTH = "one width"
"""Not a sensitivity, but the plan of one width for all weights."""


Opened = Callable[[Job], None]
"""Called with a job once its samples are there, before anything else is done."""


def unheard(job: Job) -> None:
    """An `Opened` that does nothing."""


@blames_model
def plan(loaded: Loaded, config: Config, progress: Progress = quiet, opened: Opened = unheard) -> Planned:
    """The plan that a run would execute; nothing is changed.

    Args:
        loaded: The model.
        config: The options.
        progress: Called during the search.
        opened: Called with the job.

    Returns:
        The plan.

    Raises:
        OptionError: A budget cannot be met, or there is an accuracy target, which takes runs to meet.
        DataError: The model does not run on the samples.
    """
    if config.accuracy.wanted:
        raise OptionError(
            "an accuracy target (--max-drop, ...) is found by runs, not by inspect; use --avg-bits or --max-size"
        )
    job = open_job(loaded, config, guard_goal(config.accuracy))
    opened(job)
    return _plan(job, progress)


def _plan(job: Job, progress: Progress) -> Planned:
    config, budget = job.config, job.config.budget
    searched = job.searched(progress)
    if config.by_layer:
        return by_rule(searched, budget)
    if budget.max_size is None and budget.avg_bits is None:
        priced = price(searched, budget.cost, job.work, progress)
        planned = plan_priced(priced, budget)
        return replace(planned, notes=disagreements(planned, priced, budget))
    rivals = price_all(searched, budget.cost, job.work, progress)
    if len(rivals) > 1:
        uniform = replace(next(p for p in rivals if p.cost == UNIFORM), cost=_ONE_WIDTH)
        by_user = job.split is not None and job.split.fitting.origin == "user"
        rivals = [p for p in rivals if p.cost != UNIFORM or by_user] + [uniform]
    spend = _spending(searched, budget)
    return winner(_ranked(rivals, lambda priced: _plan_of(priced, budget, spend), job, progress), budget)


def _spending(searched: Searched, budget: BudgetOptions) -> Callable[[Priced], Planned]:
    """A function that makes a plan within the budget."""
    size = budget.max_size
    if size is None:
        return lambda priced: plan_priced(priced, budget)
    known = added(searched)
    return lambda priced: plan_of_size(priced, budget, size, known)


def _plan_of(priced: Priced, budget: BudgetOptions, spend: Callable[[Priced], Planned]) -> Planned:
    uniform = _uniform_plan(priced, budget) if priced.cost == _ONE_WIDTH else None
    return spend(priced) if uniform is None else uniform


def _uniform_plan(priced: Priced, budget: BudgetOptions) -> Planned | None:
    """The plan with all weights at the largest width that fits; None where none does. A baseline for mixed widths."""
    searched = priced.searched
    loaded, table = searched.loaded, searched.table
    for bits in reversed(widths(table)):
        cells = {name: _at_most(bits, row) for name, row in table.items()}
        made = planned_with(searched, {n: c.scheme for n, c in cells.items()}, budget, "budget")
        if budget.max_size is not None:
            fits = size_of(made) <= nbytes_of(budget.max_size, loaded.nbytes)
        else:
            fits = 8 * sum(map(_nbytes, cells.values())) <= (budget.avg_bits or 0) * priced.elements
        if fits:
            return made
    return None


def _at_most(bits: int, row: ErrorRow) -> Candidate:
    """The smallest candidate of a width, or of the next lower one that the weight has; the lowest where it has none."""
    own = max((c.scheme.bits for c in row.candidates if c.scheme.bits <= bits), default=0)
    width = own or min(c.scheme.bits for c in row.candidates)
    return min((c for c in row.candidates if c.scheme.bits == width), key=_nbytes)


def _nbytes(cell: Candidate) -> int:
    return cell.nbytes


def _ranked(rivals: Sequence[Priced], make: Callable[[Priced], Planned], job: Job, progress: Progress) -> list[Entry]:
    if len(rivals) == 1 or job.split is None:
        return [Entry(priced=priced, planned=make(priced), noise=0.0) for priced in rivals[:1]]
    return ranked(rivals, make, job.work, progress)


@blames_model
def run(
    loaded: Loaded,
    config: Config,
    output: Path | None,
    name: str,
    progress: Progress = quiet,
    tell: Tell = silent,
    opened: Opened = unheard,
) -> tuple[Planned, RunResult]:
    """Plan, quantize, verify and write.

    Args:
        loaded: The model.
        config: The options.
        output: The file to write; None for none.
        name: Name of the model, for messages.
        progress: Called during the run.
        tell: Called with a line on each trial for an accuracy target.
        opened: Called with the job.

    Returns:
        The plan, and its result.

    Raises:
        MixquantError: As `plan` and `execute`; PromiseError where no plan meets the accuracy target, or the limit of
            time.
    """
    if config.accuracy.judged_by_data and not config.checks.verify:
        raise OptionError("an accuracy target is judged by the verification; leave --no-verify out")
    goal = guard_goal(config.accuracy)
    job = open_job(loaded, config, goal)
    opened(job)
    if config.accuracy.wanted:
        check_judge(loaded, config.accuracy, job.split)
    for _ in range(_MOST_ATTEMPTS):
        try:
            return _once(job, loaded, output, name, progress, tell)
        except PromiseError as error:
            slow = isinstance(error, SlowError)
            goal = quicker(goal) if slow else stricter(goal)
            other = _other(job, loaded, config, goal)
            if other is None or not (set(other.in_float) < set(job.in_float)) == slow:
                raise
            job = other
        tell(f"not reached: {counted(len(job.in_float), 'layer is', 'layers are')} now kept in float")
    return _once(job, loaded, output, name, progress, tell)


_MOST_ATTEMPTS = 6
"""Choices of layers that stay in float."""


def _other(job: Job, loaded: Loaded, config: Config, goal: GuardGoal) -> Job | None:
    """The job with other layers in float; None where they would be the same."""
    if job.integer is None or not config.activations.guard:
        return None
    other = open_job(loaded, config, goal)
    return other if other.integer is None or set(other.in_float) != set(job.in_float) else None


def _once(
    job: Job, loaded: Loaded, output: Path | None, name: str, progress: Progress, tell: Tell
) -> tuple[Planned, RunResult]:
    """One run; with an accuracy target the smallest file that meets it."""
    config = job.config
    if not config.accuracy.wanted:
        planned = _plan(job, progress)
        return planned, timed(execute(planned, job.execution, output, name, progress), loaded, job.execution)
    rivals = price_all(job.searched(progress), config.budget.cost, job.work, progress)
    search = Strategy(rivals=rivals, target=config.accuracy, work=job.work, progress=progress)

    def trial(planned: Planned, file: Path) -> RunResult:
        return execute(planned, job.execution, file, name, progress)

    planned, result = keep(loaded, config.accuracy, trial, search, output, name, tell)
    return planned, timed(result, loaded, job.execution)
