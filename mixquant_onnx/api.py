"""The Python interface: quantize, inspect, sweep, apply_plan. Nothing is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixquant_onnx import run
from mixquant_onnx.config.config import Config, config_of
from mixquant_onnx.errors import OptionError, PlanError, check_folder
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.targets.integer_kernels import WIDEST
from mixquant_onnx.export.targets.table import target_named
from mixquant_onnx.job import Job, open_job
from mixquant_onnx.model.files import Loaded, as_loaded, check_writable
from mixquant_onnx.model.soundness import blamed, blames_model
from mixquant_onnx.pipeline import execute, timed
from mixquant_onnx.planning.allocation import price
from mixquant_onnx.planning.allocators.rules import rule
from mixquant_onnx.planning.guard_goal import GuardGoal
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.planning.plan_file import read_plan
from mixquant_onnx.planning.planned import Planned, fit_plan
from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES, sensitivity_name
from mixquant_onnx.planning.table_file import check_table
from mixquant_onnx.quantization.methods import check_torch, is_calibrated, needs_torch
from mixquant_onnx.quantization.methods import method as known_method
from mixquant_onnx.result import RunResult
from mixquant_onnx.tradeoff.point import Point
from mixquant_onnx.tradeoff.sweep import sweep as points_of
from mixquant_onnx.verification.warnings import EDIT_PLAN

if TYPE_CHECKING:
    from onnx import ModelProto
    from typing_extensions import Unpack

    from mixquant_onnx.keywords import Keywords

    Model = str | Path | ModelProto | Any
    """A path, an onnx ModelProto or an onnx_graphsurgeon Graph; it is not changed."""


def checked_config(**keywords: Any) -> Config:
    """The options of a run, with all checks that do not need the model.

    Args:
        **keywords: Options by name; see docs/options.md.

    Returns:
        The options of all stages.

    Raises:
        OptionError: A keyword is not known, a value is not allowed, or options exclude each other.
        OutputError: The folder of `resume` cannot be written to.
    """
    config = config_of(**keywords)
    method, rows = config.search.method, config.data.data is not None or not config.data.data_free
    if method != "auto":
        known_method(method)
    cost = sensitivity_name(config.budget.cost)
    rule(config.budget.rule)
    target_named(config.form.target)
    if not rows and cost != "auto" and SENSITIVITIES[cost].needs_rows:
        raise OptionError(f"--cost {cost} needs --data, or proxy inputs: leave --data-free out")
    if not rows and is_calibrated(method):
        raise OptionError(
            f"--method {method} needs --data, or proxy inputs: leave --data-free out (mse is the best without)"
        )
    if needs_torch(method):
        check_torch(method)
    if config.rounding.resume is not None:
        check_folder(config.rounding.resume)
    return replace(config, budget=replace(config.budget, cost=cost))


def name_of(model: Model) -> str:
    """The name of a model in messages: its path, or "the model".

    Args:
        model: A path or a model.
    """
    return str(model) if isinstance(model, (str, Path)) else "the model"


def _loaded(model: Model, config: Config, output: Path | None = None) -> Loaded:
    """The model. Raises OptionError where it, or the output, is the file of `table`; else as `check_writable`."""
    if config.work.table is not None:
        source = Path(model) if isinstance(model, (str, Path)) else None
        check_table(config.work.table, {"the model": source, "the output": output})
    if output is not None:
        check_writable(output, model=True)
    return as_loaded(model)


def inspect(model: Model, *, progress: Progress = quiet, **options: Unpack[Keywords]) -> Planned:
    """What `quantize` would do to a model: its weights, their errors at each width, the plan.

    Args:
        model: A path, an onnx ModelProto or an onnx_graphsurgeon Graph; it is not changed.
        progress: Called with the stage, and how many of how many steps are done.
        **options: See docs/options.md.

    Returns:
        The plan and the errors of its candidates.

    Raises:
        MixquantError: ModelError, OptionError or DataError.
    """
    config = checked_config(**options)
    return run.plan(_loaded(model, config), config, progress)


def quantize(
    model: Model, output: str | Path | None = None, *, progress: Progress = quiet, **options: Unpack[Keywords]
) -> RunResult:
    """Quantize the weights of a model by the MixQuant rule or for a goal, verify the result, and write it.

    Args:
        model: A path, an onnx ModelProto or an onnx_graphsurgeon Graph; it is not changed.
        output: The file to write; None to return the model only.
        progress: Called with the stage, and how many of how many steps are done.
        **options: See docs/options.md.

    Returns:
        The written model, its plan and its verification.

    Raises:
        MixquantError: See `errors`; nothing was written then.
    """
    config = checked_config(**options)
    path = None if output is None else Path(output)
    return run.run(_loaded(model, config, path), config, path, name_of(model), progress)[1]


def sweep(
    model: Model,
    *,
    qems: Sequence[float] = (),
    average_bits: Sequence[float] = (),
    progress: Progress = quiet,
    **options: Unpack[Keywords],
) -> list[Point]:
    """Size and quality of many plans of a model, which is measured once.

    Args:
        model: A path, an onnx ModelProto or an onnx_graphsurgeon Graph; it is not changed.
        qems: One plan by the rule for each.
        average_bits: One plan with that many bits per weight for each.
        progress: Called with the stage, and how many of how many steps are done.
        **options: See docs/options.md; `verify=False` omits the quality, and is fast.

    Returns:
        The plans, the smallest first.

    Raises:
        MixquantError: ModelError, OptionError or DataError.
    """
    config = checked_config(**options)
    bits = list(average_bits)
    budget = replace(config.budget, avg_bits=bits[0]) if bits else config.budget
    loaded = _loaded(model, config)
    with blamed(loaded):
        job = open_job(loaded, replace(config, budget=budget))
        priced = price(job.searched(progress), budget.cost, job.work, progress)
        return points_of(priced, budget, job.execution, job.work, list(qems), bits, name_of(model), progress)


def apply_plan(
    model: Model,
    plan: Plan | str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress = quiet,
    **options: Unpack[Keywords],
) -> RunResult:
    """Apply a plan to a model.

    Args:
        model: A path, an onnx ModelProto or an onnx_graphsurgeon Graph; it is not changed.
        plan: A plan, or a file that `--plan` wrote.
        output: The file to write; None to return the model only.
        progress: Called with the stage, and how many of how many steps are done.
        **options: See docs/options.md.

    Returns:
        The written model, its plan and its verification.

    Raises:
        MixquantError: As `quantize`, and PlanError where the plan does not fit the model.
    """
    config = checked_config(**options)
    read = read_plan(plan)
    check_data(read, config)
    path = None if output is None else Path(output)
    return replayed(_loaded(model, config, path), read, config, path, name_of(model), progress)[1]


@blames_model
def replayed(
    loaded: Loaded, plan: Plan, config: Config, output: Path | None, name: str, progress: Progress
) -> tuple[Planned, RunResult]:
    """Fit a plan to a model and execute it.

    Args:
        loaded: The model.
        plan: The plan.
        config: Options of the run.
        output: The file to write; None for none.
        name: Name of the model, for messages.
        progress: Called during the run.

    Returns:
        The fitted plan, and its result.

    Raises:
        MixquantError: As `apply_plan`.
    """
    kept = plan.settings.get("in_float")
    goal = None if kept is None else GuardGoal(layers=tuple(kept))
    job = open_job(loaded, config, goal)
    _check_widths(plan, job)
    planned = fit_plan(job.loaded, plan, config.selection.min_size, job.config.form, progress)
    execution = replace(job.execution, advice=EDIT_PLAN)
    return planned, timed(execute(planned, execution, output, name, progress), loaded, execution)


def _check_widths(plan: Plan, job: Job) -> None:
    """Raise PlanError where a plan has more bits than integer kernels take."""
    most = WIDEST[job.config.activations.cpu]
    layers = set() if job.integer is None else set(job.integer.placement.layers.values())
    for name, scheme in plan.sites.items():
        if name in layers and scheme.bits > most:
            raise PlanError(
                f"the plan has {scheme.bits} bits for '{name}', and layers on integers take at most {most}; make a "
                f"plan with --activations, or leave it out"
            )


def check_data(plan: Plan, config: Config) -> None:
    """Check that there is data for the methods of a plan.

    Args:
        plan: The plan.
        config: Options of the run.

    Raises:
        OptionError: A method needs data, or torch, that is missing.
    """
    for method in sorted({scheme.method for scheme in plan.sites.values() if needs_torch(scheme.method)}):
        check_torch(method)
    if config.data.data is None and config.data.data_free:
        for name, scheme in plan.sites.items():
            if is_calibrated(scheme.method):
                raise OptionError(f"the plan's method for '{name}', '{scheme.method}', needs --data; give it again")
