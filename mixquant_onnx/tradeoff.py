"""Many plans from one measurement: size against quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.stages import BudgetOptions, FormOptions
from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.export.encodings.sizes import bits_per_weight
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.pipeline import Execution, execute
from mixquant_onnx.planning.allocation import Priced, by_rule, plan_of_bits, plan_priced
from mixquant_onnx.planning.error_table import Candidate, ErrorRow, has_wide_scales
from mixquant_onnx.planning.planned import Planned, size_of
from mixquant_onnx.planning.search import Searched
from mixquant_onnx.planning.select_weights import float_values
from mixquant_onnx.planning.sensitivity.table import sensitivity_name
from mixquant_onnx.verification.statistics import FEW_ROWS

TABLE_FORMAT = 1
"""Format of the table's file; incremented by incompatible changes."""

_SAME = 1e-3
"""Relative difference of mean squared weights up to which they are considered equal: float sums differ between
machines.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One plan.

    Attributes:
        setting: The QEM or bits that it was made for.
        nbytes: Size of its file in bytes.
        average_bits: Bits per weight, scales and zero points included.
        cost: Sum of its weights' costs.
        sqnr_db: SQNR of the outputs in dB, in the deployed profile; None if not measured.
        top1_agreement: Share of decisions equal to float's, from 0 to 1; None if not measured.
        accuracy: Top-1 accuracy, from 0 to 1; None without labels.
        rows: Samples on which the quality was measured.
        data: What these samples are: the user's, proxies or noise.
        pareto: Whether no other point is both smaller and better, in SQNR or, where there is none, in cost.
    """

    setting: str
    nbytes: int
    average_bits: float
    cost: float
    sqnr_db: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    rows: int = 0
    data: str = ""
    pareto: bool = False


def sweep(
    priced: Priced,
    budget: BudgetOptions,
    execution: Execution,
    qems: Sequence[float],
    bits: Sequence[float],
    name: str,
    progress: Progress = quiet,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Point]:
    """Make, and if `execution` verifies also run, many plans.

    Plans are run on samples to which nothing is fitted. Numbers of bits that are too small are left out, and reported.

    Args:
        priced: Costs of the candidates.
        budget: Its scope applies to the plans of `qems`.
        execution: How plans are run.
        qems: One plan by QEM for each.
        bits: One plan with that many bits per weight for each.
        name: Name of the model, for messages.
        progress: Called after each plan.
        tell: Called with a line on what is left out.

    Returns:
        The points, smallest first.

    Raises:
        OptionError: No plan is left.
    """
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
    execution = replace(execution, checks=replace(execution.checks, allow_unchanged=True))
    points = []
    for position, (setting, planned) in enumerate(plans):
        points.append(_point(setting, planned, priced, execution, name))
        progress("sweep", position + 1, len(plans))
    return marked(points)


def _by_error(priced: Priced, budget: BudgetOptions) -> Planned:
    if budget.scope == "model":
        return plan_priced(priced, budget)
    return by_rule(priced.searched, budget)


def _point(setting: str, planned: Planned, priced: Priced, execution: Execution, name: str) -> Point:
    if not execution.checks.verify:
        return _before_quality(setting, planned.plan.sites, priced, size_of(planned))
    result = execute(planned, execution, None, name)
    deployed = result.verification.deployed if result.verification is not None else None
    made = _before_quality(setting, result.plan.sites, priced, result.nbytes_after)
    if deployed is None or result.verification is None:
        return made
    rows = result.verification.samples
    told = result.verification.origin == "user" or rows >= FEW_ROWS
    return replace(
        made,
        sqnr_db=deployed.sqnr_db,
        top1_agreement=deployed.top1_agreement if told else None,
        accuracy=deployed.accuracy,
        rows=rows,
        data=result.verification.data_name,
    )


def _before_quality(setting: str, chosen: Mapping[str, Scheme], priced: Priced, nbytes: int) -> Point:
    """Size and cost of the schemes in the file, which the safe rule may widen after planning."""
    table = priced.searched.table
    cost = sum(priced.costs[site][scheme] for site, scheme in chosen.items())
    taken = sum({c.scheme: c.nbytes for c in table[site].candidates}[scheme] for site, scheme in chosen.items())
    elements = sum(table[site].elements for site in chosen)
    return Point(setting=setting, nbytes=nbytes, average_bits=bits_per_weight(taken, elements), cost=cost)


def marked(points: Sequence[Point]) -> list[Point]:
    """Mark the points on the Pareto front.

    Args:
        points: Points in any order.

    Returns:
        The points, smallest first; of equal ones the first is marked.
    """
    best, result = float("-inf"), []
    for point in sorted(points, key=lambda p: (p.nbytes, -_quality(p))):
        result.append(replace(point, pareto=_quality(point) > best))
        best = max(best, _quality(point))
    return result


def _quality(point: Point) -> float:
    return point.sqnr_db if point.sqnr_db is not None else -point.cost


def _mean_square(values: NDArray[np.float32]) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))


def table_to_json(priced: Priced, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that plans are made from, so that further plans need no measurement.

    Args:
        priced: Costs of the candidates.
        settings: The options by which they were measured.

    Returns:
        Values that `json` can write.
    """
    sites = {
        name: {
            "elements": errors.elements,
            "power": errors.power,
            "baseline": errors.baseline,
            "cells": [
                {"scheme": str(c.scheme), "qe": c.qe, "nbytes": c.nbytes, "cost": priced.costs[name][c.scheme]}
                for c in errors.candidates
            ],
        }
        for name, errors in priced.searched.table.items()
    }
    return {
        "format": TABLE_FORMAT,
        "cost": priced.cost,
        "settings": dict(settings),
        "sites": sites,
        "skipped": dict(priced.searched.skipped),
    }


def _cost_of(text: str) -> str:
    """The sensitivity that a table names. Raises PlanError."""
    try:
        return text if text == "balanced" else sensitivity_name(text)
    except OptionError as error:
        raise PlanError(f"the table was measured by a sensitivity that is not known, '{text}'") from error


def table_from_json(data: Any, loaded: model_io.Loaded, form: FormOptions) -> Priced:
    """Read a table of the same model.

    Args:
        data: What `json` read.
        loaded: The model.
        form: How files are written.

    Returns:
        Costs of the candidates.

    Raises:
        PlanError: It is not a table of this format, or of another model.
    """
    wrong = PlanError("not a table of mixquant-onnx (format 1); write one with sweep --table FILE")
    if not isinstance(data, Mapping) or data.get("format") != TABLE_FORMAT:
        raise wrong
    sites = find(loaded.model, 1).sites
    table: dict[str, ErrorRow] = {}
    costs: dict[str, dict[Scheme, float]] = {}
    try:
        for name, entry in data["sites"].items():
            if name not in sites or sites[name].site.elements != entry["elements"]:
                raise PlanError(f"the table knows '{name}', which this model has not so; measure it again")
            site, values = sites[name].site, float_values(sites[name])
            if not math.isclose(_mean_square(values), entry["power"], rel_tol=_SAME):
                raise PlanError(f"the table was made of other weights of '{name}'; measure it again")
            cells, prices = [], {}
            for cell in entry["cells"]:
                scheme = Scheme.parse(cell["scheme"])
                wide = has_wide_scales(site, values, scheme)
                cells.append(Candidate(scheme=scheme, qe=float(cell["qe"]), nbytes=int(cell["nbytes"]), wide=wide))
                prices[scheme] = float(cell["cost"])
            if not cells:
                raise wrong
            costs[name] = prices
            table[name] = ErrorRow(
                site=name,
                elements=int(entry["elements"]),
                power=float(entry["power"]),
                baseline=float(entry["baseline"]),
                candidates=tuple(cells),
            )
        searched = Searched(loaded=loaded, sites=sites, table=table, skipped=dict(data.get("skipped", {})), form=form)
        return Priced(searched=searched, costs=costs, cost=_cost_of(str(data["cost"])))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise wrong from error
