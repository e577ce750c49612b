"""The allocator against an exact solver: HiGHS, on random tables and on those of the models of this project."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from conftest import ROOT
from scipy.optimize import Bounds, LinearConstraint, milp

import mixquant_onnx as mq
from mixquant_onnx.numerics.granularity import Grid
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.allocators.lagrangian import lower_bound

Table = dict[str, list[Choice]]
CHANNEL, BLOCKS = Grid(per="channel"), Grid(per="block", block=32)
SHARES = (0.02, 0.1, 0.3, 0.6, 0.9)
"""Of the way from the least to the most that a plan can need."""


def random_table(seed: int, sites: int, grids: tuple[Grid, ...] = (CHANNEL,)) -> Table:
    """Sizes over three decades; errors about 4 times as large for each bit less."""
    random = np.random.default_rng([seed, sites])
    table: Table = {}
    for site in range(sites):
        size, level = 64 + int(random.lognormal(8, 1.5)), float(random.lognormal(0, 1.5))
        table[f"s{site}"] = [
            Choice(
                scheme=Scheme(bits=bits, grid=grid),
                cost=level * 4.0 ** (8 - bits) * float(random.lognormal(0, 0.3)) / (1 if grid == CHANNEL else 2),
                nbytes=size * bits // 8 + size // (200 if grid == CHANNEL else 10),
            )
            for bits in range(2, 9)
            for grid in grids
        ]
    return table


@cache
def measured_table(model: str, granularity: str) -> Table:
    """Of a model of this project, at the relative error times the root of the weights."""
    path = ROOT / "models" / model / "model.onnx"
    found = mq.inspect(path, method="minmax", granularity=granularity, data_free=True).table
    return {
        name: [
            Choice(scheme=c.scheme, cost=errors.elements**0.5 * c.qe / errors.power, nbytes=c.nbytes)
            for c in errors.cells
        ]
        for name, errors in found.items()
    }


def summed(plan: dict[str, Choice]) -> tuple[float, int]:
    """(cost, bytes)."""
    return sum(c.cost for c in plan.values()), sum(c.nbytes for c in plan.values())


def between(table: Table, share: float) -> tuple[int, float]:
    """A limit for the bytes and one for the cost, `share` of the way (of the logarithm, for the cost)."""
    nbytes = [sum(end(c.nbytes for c in own) for own in table.values()) for end in (min, max)]
    costs = [sum(end(c.cost for c in own) for own in table.values()) for end in (min, max)]
    return int(nbytes[0] + share * (nbytes[1] - nbytes[0])), costs[0] * (costs[1] / costs[0]) ** share


def exact(table: Table, value: Callable[[Choice], float], need: Callable[[Choice], float], limit: float) -> float:
    """The least summed value within the limit, by branch and cut."""
    choices = [(site, c) for site, own in table.items() for c in own]
    values = np.array([value(c) for _, c in choices], np.float64)
    one_each = np.array([[float(site == other) for other, _ in choices] for site in table])
    within = LinearConstraint(np.array([[need(c) / limit for _, c in choices]]), -np.inf, 1.0)
    result = milp(
        values / np.median(values),
        constraints=[LinearConstraint(one_each, 1.0, 1.0), within],
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-7},
    )
    assert result.x is not None
    return float(values[result.x > 0.5].sum())


def assert_optimal(table: Table) -> None:
    for share in SHARES:
        limit, budget = between(table, share)
        cost, nbytes = summed(best_within_bytes(table, limit))
        assert nbytes <= limit
        assert cost <= exact(table, lambda c: c.cost, lambda c: c.nbytes, limit) * (1 + 1e-6)
        cost, nbytes = summed(smallest_within_cost(table, budget))
        assert cost <= budget
        assert nbytes <= exact(table, lambda c: c.nbytes, lambda c: c.cost, budget) * (1 + 1e-6)


@pytest.mark.parametrize("grids", [(CHANNEL,), (CHANNEL, BLOCKS)], ids=["channel", "channel and blocks"])
@pytest.mark.parametrize(("seed", "sites"), [(0, 1), (1, 3), (2, 8), (3, 8), (4, 20), (5, 40)])
def test_random_tables_get_the_optimum(seed: int, sites: int, grids: tuple[Grid, ...]) -> None:
    assert_optimal(random_table(seed, sites, grids))


@pytest.mark.parametrize("granularity", ["channel", "auto"])
@pytest.mark.parametrize("model", ["digits_cnn", "digits_transformer"])
def test_tables_of_models_get_the_optimum(model: str, granularity: str) -> None:
    assert_optimal(measured_table(model, granularity))


def test_many_weights_are_within_a_fiftieth_of_a_per_cent_of_the_bound() -> None:
    """150 of them: more partial sums than are kept."""
    table = random_table(0, 150, (CHANNEL, BLOCKS))
    values, needs = (np.array([[float(getattr(c, name)) for c in own] for own in table.values()])
                     for name in ("cost", "nbytes"))  # fmt: skip
    limit, budget = between(table, 0.4)
    assert summed(best_within_bytes(table, limit))[0] <= lower_bound(values, needs, limit).value * 1.0002
    assert summed(smallest_within_cost(table, budget))[1] <= lower_bound(needs, values, budget).value * 1.0002
