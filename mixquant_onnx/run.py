"""Runs with a goal: a file of a given size, or the smallest file that keeps a promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mixquant_onnx.accuracy.bisection import first_bits
from mixquant_onnx.accuracy.search import Tell, check_judge, keep, least_bits, silent
from mixquant_onnx.data.dataset import DataSplit
from mixquant_onnx.errors import OptionError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model import files as model_io
from mixquant_onnx.options import Options, size_limit
from mixquant_onnx.pipeline import RunResult, execute, size_of
from mixquant_onnx.planning.allocation import Priced, make_plan, plan_of_bits, plan_priced, price_all, with_data
from mixquant_onnx.planning.error_table import Cell
from mixquant_onnx.planning.plan import Planned, Searched, planned_with, widths
from mixquant_onnx.planning.selection import Entry, ranked, winner
from mixquant_onnx.planning.size_budget import added, plan_of_size

_UNIFORM = "uniform"
"""Not a cost, but the plan of one width for all."""


def plan(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Planned:
    """What a run would write. Raises OptionError for a promise, which takes runs to keep."""
    if options.promise.wanted:
        raise OptionError("a promise (--max-drop, ...) is found by runs, not by inspect; use --avg-bits or --max-size")
    if options.max_size is None and options.avg_bits is None:
        return make_plan(loaded, options, progress)
    options = with_data(loaded, options)
    rivals = price_all(loaded, options, progress)
    if len(rivals) > 1:
        uniform = replace(next(p for p in rivals if p.cost == "even"), cost=_UNIFORM)
        rivals = [p for p in rivals if p.cost != "even" or options.origin == "user"] + [uniform]
    spend = _spending(rivals[0].searched, options)
    return winner(_ranked(rivals, lambda priced: _plan_of(priced, options, spend), options, progress), options)


def _spending(searched: Searched, options: Options) -> Callable[[Priced], Planned]:
    """What makes a plan that keeps to the budget of `options`."""
    size = options.max_size
    if size is None:
        return lambda priced: plan_priced(priced, options)
    known = added(searched, options)
    return lambda priced: plan_of_size(priced, options, size, known)


def _plan_of(priced: Priced, options: Options, spend: Callable[[Priced], Planned]) -> Planned:
    uniform = _uniform_plan(priced, options) if priced.cost == _UNIFORM else None
    return spend(priced) if uniform is None else uniform


def _uniform_plan(priced: Priced, options: Options) -> Planned | None:
    """All weights at the most bits that fit; None where none does. Mixed widths must do better to be worth anything."""
    searched = priced.searched
    loaded, table = searched.loaded, searched.table
    for bits in reversed(widths(table)):
        cells = {n: min((c for c in e.cells if c.scheme.bits == bits), key=_nbytes) for n, e in table.items()}
        made = planned_with(searched, {n: c.scheme for n, c in cells.items()}, options, "budget")
        if options.max_size is not None:
            fits = size_of(made, options) <= size_limit(options.max_size, loaded.nbytes)
        else:
            fits = 8 * sum(map(_nbytes, cells.values())) <= (options.avg_bits or 0) * priced.elements
        if fits:
            return made
    return None


def _nbytes(cell: Cell) -> int:
    return cell.nbytes


def _ranked(
    rivals: Sequence[Priced], make: Callable[[Priced], Planned], options: Options, progress: Progress
) -> list[Entry]:
    if len(rivals) == 1 or not isinstance(options.data, DataSplit):
        return [Entry(priced=priced, planned=make(priced), noise=0.0) for priced in rivals[:1]]
    return ranked(rivals, make, options.data, options.rounding == "compensated", progress)


def run(
    loaded: model_io.Loaded,
    options: Options,
    output: Path | None,
    name: str,
    progress: Progress = quiet,
    tell: Tell = silent,
) -> tuple[Planned, RunResult]:
    """Plan and execute for the goal of `options`. Raises what `make_plan` and `execute` raise, and PromiseError."""
    if options.promise.judged_by_data and not options.verify:
        raise OptionError("a promise is judged by the proof; leave --no-verify out")
    options = with_data(loaded, options)
    if not options.promise.wanted:
        planned = plan(loaded, options, progress)
        return planned, execute(planned, options, output, name, progress)
    check_judge(loaded, options)
    rivals = price_all(loaded, options, progress)
    bits = first_bits(least_bits(rivals[0]))
    entries = _ranked(rivals, lambda priced: plan_of_bits(priced, options, bits), options, progress)
    return keep([entry.priced for entry in entries], options, output, name, progress, tell)
