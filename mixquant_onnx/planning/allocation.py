"""From errors and costs to the scheme of each site: the rule, or one budget over the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data, DataSplit, undivided
from mixquant_onnx.data.files import data_of, load_data
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.data.proxies.build import proxy_data
from mixquant_onnx.data.split import PROMISE_SHARE, SHARE, split_data
from mixquant_onnx.errors import DataError, OptionError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.options import Given, Options
from mixquant_onnx.planning.allocators import qem as qem_rule
from mixquant_onnx.planning.allocators import safe
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.error_table import SiteErrors
from mixquant_onnx.planning.plan import Planned, Searched, planned_with, search
from mixquant_onnx.planning.sensitivity import costs as measured
from mixquant_onnx.planning.sensitivity.costs import Costs
from mixquant_onnx.planning.sensitivity.interactions import made_up_for
from mixquant_onnx.quantization.methods import is_calibrated
from mixquant_onnx.runtime.session import RuntimeFailure, Session


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Priced:
    """A search with the cost of every candidate: all that plans of any size are made from."""

    searched: Searched
    costs: Costs
    cost: str

    @property
    def elements(self) -> int:
        return sum(errors.elements for errors in self.searched.table.values())

    def choices(self, floats: bool = False) -> dict[str, list[Choice]]:
        """The candidates as a knapsack knows them; with `floats`, each site may also stay as it is at no cost."""
        made = {}
        for name, errors in self.searched.table.items():
            own = self.costs[name]
            made[name] = [Choice(scheme=c.scheme, cost=own[c.scheme], nbytes=c.nbytes) for c in errors.cells]
            if floats:
                size = self.searched.sites[name].source.tensor.ByteSize()
                made[name].append(Choice(scheme=None, cost=0.0, nbytes=size))
        return made

    @property
    def least_bytes(self) -> int:
        return sum(min(c.nbytes for c in errors.cells) for errors in self.searched.table.values())


def divided(loaded: model_io.Loaded, options: Options) -> DataSplit | None:
    """The user's data, checked against the model and divided; None where none was given. Raises DataError."""
    if options.data is None or isinstance(options.data, DataSplit):
        return options.data
    data, evaluation = _read(loaded, options.data, options.labels), _evaluation(loaded, options)
    share = PROMISE_SHARE if options.promise.judged_by_data else SHARE
    return split_data(loaded.model, data, options.compares_plans, evaluation, share)


def with_data(loaded: model_io.Loaded, options: Options) -> Options:
    """`options` with the data read or made, and divided, so that no later step does it again. Raises DataError."""
    split = divided(loaded, options)
    if split is None and options.needs_inputs:
        split = stand_in(loaded, options)
    calibrated = split is not None and split.fitting.origin != "noise"
    method = options.search.method
    if not calibrated and is_calibrated(method):
        if options.method_chosen:
            raise DataError(f"--method {method} needs --data: what this model reads is not known, or it does not run")
        method = "mse" if options.budgeted else "minmax"
    if not calibrated and options.cost in ("hessian", "output", "block"):
        raise DataError(f"--cost {options.cost} needs --data: what this model reads is not known, or it does not run")
    return replace(
        options,
        data=split,
        eval_data=_evaluation(loaded, options) if split is None else None,
        search=replace(options.search, method=method),
    )


def stand_in(loaded: model_io.Loaded, options: Options) -> DataSplit | None:
    """Proxy inputs in place of the user's data, or else noise; what `--eval-data` gave is for evaluation.

    None where the model does not run on any of them. Raises DataError.
    """
    evaluation = _evaluation(loaded, options)
    try:
        session = Session(loaded.model)
    except RuntimeFailure:
        return None
    proxies = None if options.data_free else proxy_data(loaded.model, session)
    if proxies is not None:
        return split_data(session, proxies, options.compares_plans, evaluation)
    noise = usable_data(session, loaded.model)
    if evaluation is None:
        return None if noise is None else undivided(noise)
    noise = noise or Data(feeds=(), labels=None, origin="noise", name="rows of noise")
    return split_data(session, noise, False, evaluation)


def _evaluation(loaded: model_io.Loaded, options: Options) -> Data | None:
    return None if options.eval_data is None else _read(loaded, options.eval_data, None)


def _read(loaded: model_io.Loaded, given: Given | Data, labels: Path | None) -> Data:
    if isinstance(given, Data):
        return given
    inputs = model_inputs(loaded.model)
    return data_of(given, labels, inputs) if isinstance(given, tuple) else load_data(given, labels, inputs)


def price(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Priced:
    """Search, and the cost of each candidate. Raises OptionError, DataError.

    The default with data is output balanced with energy.
    """
    options = with_data(loaded, options)
    if options.cost != "auto" or options.origin != "user":
        return price_all(loaded, options, progress)[0]
    output = price_all(loaded, replace(options, cost="output"), progress)[0]
    if output.cost != "output":
        return output
    found = measured.balanced(output.costs, by_energy(output.searched).costs)
    return replace(output, costs=found, cost="balanced")


def price_all(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> list[Priced]:
    """At the cost of `options`; for `auto` with data at each that there is. Raises OptionError, DataError."""
    options = with_data(loaded, options)
    return price_searched(search(loaded, options, progress), options, progress)


def price_searched(searched: Searched, options: Options, progress: Progress = quiet) -> list[Priced]:
    """`price_all` of what is searched already. On proxy inputs `auto` has the costs without runs: energy and even."""
    loaded = searched.loaded
    split = divided(loaded, options)
    measured_by_default = split is not None and split.fitting.origin == "user"
    chosen = options.cost if options.cost != "auto" or measured_by_default else "energy"
    if chosen == "energy" or split is None or not searched.table:
        by_proxies = options.cost == "auto" and split is not None and split.fitting.origin == "proxy"
        even = Priced(searched=searched, costs=measured.even(searched.table), cost="even")
        return [by_energy(searched), *([even] if by_proxies and searched.table else [])]
    sites = {name: searched.sites[name] for name in searched.table}
    fit, held = split.calibration, split.selection
    if options.cost == "hessian":
        seconds = Calibration(loaded.model, sites, fit).second_moments(list(sites))
        hessian = measured.hessian(searched.table, sites, seconds)
        return [Priced(searched=searched, costs=hessian, cost="hessian")]
    with threadpool_limits(1, "blas"):
        hessian, output = measured.output(searched.table, loaded.model, sites, fit, held, progress)
        found = {"output": output}
        if options.cost != "output":
            shares = made_up_for(searched.table, loaded.model, searched.sites, fit, held, progress)
            found["block"] = measured.block(output, shares)
    if options.cost != "auto":
        return [Priced(searched=searched, costs=found[options.cost], cost=options.cost)]
    found |= {"hessian": hessian, "even": measured.even(searched.table)}
    made = [Priced(searched=searched, costs=costs, cost=name) for name, costs in found.items()]
    return [*made, by_energy(searched)]


def by_energy(searched: Searched) -> Priced:
    """At the data-free cost."""
    return Priced(searched=searched, costs=measured.energy(searched.table, searched.sites), cost="energy")


def by_rule(searched: Searched, options: Options) -> Planned:
    """The rule, layer by layer: on its floor, or the paper's to the letter."""
    if options.rule == "safe":
        return planned_with(searched, safe.allocate(searched.table, options.qem), options, "safe")
    return planned_with(searched, qem_rule.allocate(searched.table, options.qem), options, "qem")


def make_plan(loaded: model_io.Loaded, options: Options, progress: Progress = quiet) -> Planned:
    """Search and allocation: nothing is changed. Raises OptionError where a budget cannot be met, DataError."""
    options = with_data(loaded, options)
    if not options.budgeted:
        return by_rule(search(loaded, options, progress), options)
    priced = price(loaded, options, progress)
    planned = plan_priced(priced, options)
    return replace(planned, notes=disagreements(planned, priced, options))


_FAR = 2
"""Bits by which two costs must differ on a weight to be worth a word."""


def disagreements(planned: Planned, priced: Priced, options: Options) -> tuple[str, ...]:
    """The weights on which a measured cost and the data-free one differ most, at the same budget."""
    if priced.cost == "energy":
        return ()
    blind = plan_priced(by_energy(priced.searched), options).plan.sites
    far = {
        name: (scheme.bits, blind[name].bits)
        for name, scheme in planned.plan.sites.items()
        if name in blind and abs(scheme.bits - blind[name].bits) >= _FAR
    }
    if not far:
        return ()
    name = max(far, key=lambda n: abs(far[n][0] - far[n][1]))
    ours, theirs = far[name]
    return (
        f"{len(far)} weights get {_FAR} bits more or less by cost '{priced.cost}' than by 'energy', "
        f"most '{name}': {ours} and {theirs}",
    )


def plan_priced(priced: Priced, options: Options) -> Planned:
    """The plan for the budget of `options`. Raises OptionError where no plan is so small."""
    if options.avg_bits is not None:
        return plan_of_bits(priced, options, options.avg_bits)
    choices = priced.choices()
    table = priced.searched.table
    allowed = options.qem * sum(_baseline_cost(table[name], priced.costs[name]) for name in table)
    return plan_of_choices(priced, options, smallest_within_cost(choices, allowed), "qem-model")


def plan_of_bits(priced: Priced, options: Options, bits: float, floats: bool = False) -> Planned:
    """The least cost at `bits` bits a weight, all counted. Raises OptionError where no plan is so small."""
    limit = int(bits * priced.elements / 8 + 1e-6)
    if priced.least_bytes > limit:
        least = 8 * priced.least_bytes / max(priced.elements, 1)
        raise OptionError(
            f"--avg-bits {bits:g} is below the smallest possible, {least:.2f} with scales and zero points; "
            f"allow fewer bits with --bits or a coarser --granularity"
        )
    return plan_of_choices(priced, options, best_within_bytes(priced.choices(floats), limit))


def plan_of_choices(
    priced: Priced, options: Options, chosen: Mapping[str, Choice], allocator: str = "budget"
) -> Planned:
    """The plan in which each site is as it is `chosen`."""
    schemes = {name: choice.scheme for name, choice in chosen.items() if choice.scheme is not None}
    return planned_with(priced.searched, schemes, options, allocator)


def _baseline_cost(errors: SiteErrors, own: Mapping[Scheme, float]) -> float:
    """The cost of plain int8: that of the candidate with the nearest QE, in proportion."""
    with_error = [cell for cell in errors.cells if cell.qe > 0]
    if not with_error or errors.baseline <= 0:
        return 0.0
    nearest = min(with_error, key=lambda cell: abs(cell.qe - errors.baseline))
    return own[nearest.scheme] * errors.baseline / nearest.qe
