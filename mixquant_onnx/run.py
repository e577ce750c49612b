"""Selection of the plan of a run: by the rule, for a budget, or for an accuracy target."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mixquant_onnx.accuracy.search import Tell, check_judge, keep, silent
from mixquant_onnx.accuracy.strategy import Strategy
from mixquant_onnx.config.config import Config
from mixquant_onnx.config.parsing import nbytes_of
from mixquant_onnx.config.stages import BudgetOptions
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.data.preparation import prepare
from mixquant_onnx.errors import DataError, OptionError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.pipeline import Execution, RunResult, execute
from mixquant_onnx.planning.allocation import (
    Priced,
    by_rule,
    disagreements,
    plan_priced,
    price,
    price_all,
)
from mixquant_onnx.planning.allocators.rules import rule
from mixquant_onnx.planning.digests import digest, digest_of_feeds, digest_of_model, digest_of_source
from mixquant_onnx.planning.error_table import Candidate
from mixquant_onnx.planning.planned import Planned, planned_with, size_of
from mixquant_onnx.planning.search import Searched, search, widths
from mixquant_onnx.planning.selection import Entry, ranked, winner
from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES, UNIFORM, WEIGHT_ERROR
from mixquant_onnx.planning.size_budget import added, plan_of_size
from mixquant_onnx.planning.table_file import TableFile
from mixquant_onnx.planning.workspace import Workspace
from mixquant_onnx.quantization.methods import is_calibrated, needs_torch

_ONE_WIDTH = "one width"
"""Not a sensitivity, but the plan of one width for all weights."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """A model with the options and samples of a run.

    Attributes:
        loaded: The model.
        config: The options.
        work: The samples, and where results are kept.
        method: The method that the samples allow.
    """

    loaded: Loaded
    config: Config
    work: Workspace
    method: str

    @property
    def split(self) -> DataSplit | None:
        """The samples; None where there are none."""
        return self.work.split

    @property
    def execution(self) -> Execution:
        """How plans of this run are executed."""
        return Execution(split=self.split, rounding=self.config.rounding, checks=self.config.checks)

    def searched(self, progress: Progress = quiet) -> Searched:
        """Every candidate with its error.

        Args:
            progress: Called during the search.

        Returns:
            The weights and the errors of their candidates.

        Raises:
            OptionError: A pattern of names matches no weight.
        """
        config = self.config
        options = replace(config.search, method=self.method)
        estimate = not config.by_layer or (_holds(config) and is_calibrated(_wished(config)))
        made = search(
            self.loaded,
            config.selection,
            options,
            config.form,
            estimate=estimate,
            kept=self.work.root,
            progress=progress,
        )
        if not needs_torch(self.method):
            return made
        learned = {"seed": config.rounding.seed, "iterations": config.rounding.iterations}
        return replace(made, settings={**made.settings, **learned})


Opened = Callable[[Job], None]
"""Called with a job once its samples are there, before anything else is done."""


def unheard(job: Job) -> None:
    """An `Opened` that does nothing."""


def open_job(loaded: Loaded, config: Config) -> Job:
    """Read or generate the samples of a run, once.

    Args:
        loaded: The model.
        config: The options.

    Returns:
        The job.

    Raises:
        DataError: The samples do not fit the model, or options need samples and there are none.
    """
    split = prepare(
        loaded.model,
        config.data,
        selects=not config.by_layer and config.budget.cost != WEIGHT_ERROR,
        judges=config.accuracy.judged_by_data,
        stands_in=_needs_rows(config),
    )
    method = _method(config, split)
    cost = config.budget.cost
    if cost != "auto" and SENSITIVITIES[cost].needs_rows and not _calibrates(split):
        raise DataError(f"--cost {cost} needs --data: what this model reads is not known, or it does not run")
    return Job(loaded=loaded, config=config, work=_workspace(loaded, config, split, method), method=method)


def _workspace(loaded: Loaded, config: Config, split: DataSplit | None, method: str) -> Workspace:
    """Where results are kept: in --table, guarded by what they depend on, or for this run alone."""
    work = config.work
    options = {**asdict(replace(config.search, method=method)), **asdict(config.selection)}
    settings = json.dumps([options, config.form.native_types, config.data.data_free], default=str, sort_keys=True)
    root = TableFile(
        work.table,
        None
        if work.table is None
        else {
            "model": digest_of_model(loaded),
            "data (--data)": digest_of_source(config.data.data),
            "choice of candidates (--bits, --granularity, --method, --include, ...)": digest(settings),
            "release of mixquant-onnx": _release(),
        },
    )
    rows = (
        "" if split is None else digest(*(digest_of_feeds(part.feeds) for part in (split.calibration, split.selection)))
    )
    compensated = config.rounding.compensated
    return Workspace(
        split=split,
        root=root,
        table=root.section(f"{rows} {compensated}"),
        effort=work.effort,
        jobs=work.jobs,
        compensated=compensated,
    )


def _release() -> str:
    try:
        return version("mixquant-onnx")
    except PackageNotFoundError:
        return "not installed"


def _needs_rows(config: Config) -> bool:
    """Whether anything is fitted to inputs, or compared on them."""
    held = _holds(config) and config.by_layer
    return config.checks.verify or config.rounding.compensated or is_calibrated(_wished(config)) or held


def _holds(config: Config) -> bool:
    """Whether the rule's limit holds for calibrated weights too."""
    return rule(config.budget.rule).holds_after_calibration


def _wished(config: Config) -> str:
    """The method by the options alone: `auto` is gptq where there may be samples for calibration."""
    if config.search.method != "auto":
        return config.search.method
    if config.work.effort == "thorough" and config.data.data is not None and find_spec("torch") is not None:
        return "brecq"
    if config.data.data is not None or not config.data.data_free:
        return "gptq"
    return _without_rows(config)


def _without_rows(config: Config) -> str:
    return "minmax" if config.by_layer else "mse"


def _calibrates(split: DataSplit | None) -> bool:
    return split is not None and split.fitting.origin != "noise"


def _method(config: Config, split: DataSplit | None) -> str:
    """The method of a run. Raises DataError where the requested one has no samples for calibration."""
    wished = _wished(config)
    if not is_calibrated(wished) or _calibrates(split):
        return wished
    if config.search.method != "auto":
        raise DataError(f"--method {wished} needs --data: what this model reads is not known, or it does not run")
    return _without_rows(config)


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
    job = open_job(loaded, config)
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
        cells = {n: min((c for c in e.candidates if c.scheme.bits == bits), key=_nbytes) for n, e in table.items()}
        made = planned_with(searched, {n: c.scheme for n, c in cells.items()}, budget, "budget")
        if budget.max_size is not None:
            fits = size_of(made) <= nbytes_of(budget.max_size, loaded.nbytes)
        else:
            fits = 8 * sum(map(_nbytes, cells.values())) <= (budget.avg_bits or 0) * priced.elements
        if fits:
            return made
    return None


def _nbytes(cell: Candidate) -> int:
    return cell.nbytes


def _ranked(rivals: Sequence[Priced], make: Callable[[Priced], Planned], job: Job, progress: Progress) -> list[Entry]:
    if len(rivals) == 1 or job.split is None:
        return [Entry(priced=priced, planned=make(priced), noise=0.0) for priced in rivals[:1]]
    return ranked(rivals, make, job.work, progress)


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
        MixquantError: As `plan` and `execute`; PromiseError where no plan meets the accuracy target.
    """
    if config.accuracy.judged_by_data and not config.checks.verify:
        raise OptionError("an accuracy target is judged by the verification; leave --no-verify out")
    job = open_job(loaded, config)
    opened(job)
    if not config.accuracy.wanted:
        planned = _plan(job, progress)
        return planned, execute(planned, job.execution, output, name, progress)
    check_judge(loaded, config.accuracy, job.split)
    rivals = price_all(job.searched(progress), config.budget.cost, job.work, progress)
    search = Strategy(rivals=rivals, target=config.accuracy, work=job.work, progress=progress)

    def trial(planned: Planned, file: Path) -> RunResult:
        return execute(planned, job.execution, file, name, progress)

    return keep(loaded, config.accuracy, trial, search, output, name, tell)
