"""The allocator against an exact solver (HiGHS), and against all plans where there are few."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from conftest import ROOT
from scipy.optimize import Bounds, LinearConstraint, milp

import mixquant_onnx as mq
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators import knapsack
from mixquant_onnx.planning.allocators.charged import best_within_charged, total_bytes
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.allocators.lagrangian import lower_bound
from mixquant_onnx.planning.error_table import ErrorRow

Table = dict[str, list[Choice]]
CHANNEL, BLOCKS = Granularity(per="channel"), Granularity(per="block", block=32)
SHARES = (0.05, 0.3, 0.8)
"""Of the way from the least to the most that a plan can need."""


def random_table(seed: int, sites: int, grids: tuple[Granularity, ...] = (CHANNEL,)) -> Table:
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
            for c in errors.candidates
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
def test_random_tables_get_the_optimum(seed: int, sites: int, grids: tuple[Granularity, ...]) -> None:
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


def few_sites(seed: int, sites: int = 5) -> Table:
    """Error about 4 times as large for each bit less, with noise; sizes that differ widely."""
    random = np.random.default_rng(seed)
    table: Table = {}
    for site in range(sites):
        size, level = int(random.integers(100, 20000)), float(random.lognormal())
        table[f"s{site}"] = [
            Choice(
                scheme=Scheme(bits=bits, grid=Granularity(per="channel")),
                cost=level * 4.0 ** (8 - bits) * float(random.lognormal(0, 0.3)),
                nbytes=size * bits // 8,
            )
            for bits in range(2, 9)
        ]
    return table


def all_plans(table: Table) -> list[tuple[float, int]]:
    return [(sum(c.cost for c in p), sum(c.nbytes for c in p)) for p in itertools.product(*table.values())]


@pytest.mark.parametrize("seed", range(8))
def test_the_least_cost_within_bytes_is_that_ofall_plans(seed: int) -> None:
    table = few_sites(seed)
    plans = all_plans(table)
    largest = max(nbytes for _, nbytes in plans)
    for share in (0.4, 0.6, 0.8):
        limit = int(largest * share)
        chosen = best_within_bytes(table, limit)
        assert sum(c.nbytes for c in chosen.values()) <= limit
        best = min(cost for cost, nbytes in plans if nbytes <= limit)
        assert sum(c.cost for c in chosen.values()) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_what_each_width_takes_once_is_counted(seed: int) -> None:
    """As large as in a file of 10 kB, where the functions of five widths would take most of it."""
    table = few_sites(seed, sites=4)
    once = {2: 1452, 3: 3686, 4: 938, 5: 3172, 6: 2146, 7: 4384, 8: 236}
    plans = []
    for plan in itertools.product(*table.values()):
        plans.append((sum(c.cost for c in plan), total_bytes(dict(zip(table, plan, strict=True)), once)))
    for limit in np.quantile([nbytes for _, nbytes in plans], (0.05, 0.2, 0.5)).astype(int).tolist():
        chosen = best_within_charged(table, limit, once)
        assert total_bytes(chosen, once) <= limit
        best = min(cost for cost, nbytes in plans if nbytes <= limit)
        assert sum(c.cost for c in chosen.values()) == pytest.approx(best)


def test_widths_that_cost_nothing_once_change_nothing_and_no_limit_is_too_small() -> None:
    table = few_sites(0)
    assert best_within_charged(table, 50_000, {}) == best_within_bytes(table, 50_000)
    least = best_within_charged(table, 0, {2: 10, 3: 5000})
    assert {c.scheme.bits for c in least.values() if c.scheme} == {2}


@pytest.mark.parametrize("seed", range(8))
def test_the_fewest_bytes_within_cost_are_those_ofall_plans(seed: int) -> None:
    table = few_sites(seed)
    plans = all_plans(table)
    for budget in (10.0, 100.0, 1000.0):
        if not any(cost <= budget for cost, _ in plans):
            continue
        chosen = smallest_within_cost(table, budget)
        assert sum(c.cost for c in chosen.values()) <= budget
        best = min(nbytes for cost, nbytes in plans if cost <= budget)
        assert sum(c.nbytes for c in chosen.values()) == best


def choice(bits: int, cost: float, nbytes: int) -> Choice:
    return Choice(scheme=Scheme(bits=bits, grid=CHANNEL) if bits else None, cost=cost, nbytes=nbytes)


def test_limits_that_no_plan_keeps_give_the_fewest_bytes_or_the_least_cost() -> None:
    table = {"a": [choice(4, 1.0, 40), choice(2, 5.0, 20), choice(3, 2.0, 20)], "b": [choice(8, 0.5, 80)]}
    assert best_within_bytes(table, 99) == {"a": table["a"][2], "b": table["b"][0]}
    assert smallest_within_cost(table, 1.4) == {"a": table["a"][0], "b": table["b"][0]}
    assert best_within_bytes(table, 100) == {"a": table["a"][2], "b": table["b"][0]}
    assert smallest_within_cost(table, 1.5) == {"a": table["a"][0], "b": table["b"][0]}
    assert best_within_bytes({}, 0) == smallest_within_cost({}, 0.0) == {}


def test_what_is_as_good_in_fewer_bytes_is_taken() -> None:
    table = {name: [choice(8, 0.0, 80), choice(4, 0.0, 40)] for name in "ab"}
    for limit in (60, 100, 10_000):
        assert [c.nbytes for c in best_within_bytes(table, limit).values()] == [40, 40]
    table = {
        "a": [choice(8, 1.0, 80), choice(4, 3.0, 40), choice(2, 3.0, 20)],
        "b": [choice(8, 1.0, 80), choice(4, 2.0, 40)],
    }
    found = best_within_bytes(table, 150)
    assert {name: c.nbytes for name, c in found.items()} == {"a": 80, "b": 40} and list(found) == ["a", "b"]


def test_a_site_whose_costs_are_not_finite_takes_the_fewest_bytes_and_the_others_are_planned_as_ever() -> None:
    table = few_sites(3)
    dead = {"dead": [choice(bits, float("inf"), 100 * bits) for bits in (2, 4, 8)]}
    limit = 35_000
    alone = best_within_bytes(table, limit - 200)
    assert best_within_bytes(dead | table, limit) == {"dead": dead["dead"][0]} | alone
    mixed = {"a": [choice(4, float("inf"), 10), choice(8, 5.0, 20)], "b": [choice(4, 400.0, 10), choice(8, 0.0, 30)]}
    assert best_within_bytes(mixed, 40) == {"a": mixed["a"][1], "b": mixed["b"][0]}


def test_the_bound_is_below_the_optimum_and_reached_where_a_price_alone_decides() -> None:
    values, needs = np.array([[4.0, 1.0], [9.0, 1.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    bound = lower_bound(values, needs, 3.0)
    assert bound.value == pytest.approx(5.0) and 3 < bound.price < 8
    assert lower_bound(values, needs, 3.5).value < 5.0
    assert lower_bound(values, needs, 4.0).value == pytest.approx(2.0, rel=1e-6)
    ragged = np.array([[4.0, 1.0], [9.0, np.inf]]), np.array([[1.0, 2.0], [1.0, np.inf]])
    assert lower_bound(*ragged, 3.0).value == pytest.approx(10.0, rel=1e-6)
    for unit in (1e-25, 1e25):
        assert lower_bound(unit * values, needs, 3.0).value == pytest.approx(5.0 * unit)
        assert lower_bound(values, unit * needs, 3.0 * unit).value == pytest.approx(5.0)
    equal = np.full((2, 2), 3.0)
    assert lower_bound(equal, needs, 2.0).value == lower_bound(values * 0 + 3, equal, 2.0).value == 6.0


def test_sites_that_stay_float_have_no_charge() -> None:
    table = {"a": [choice(0, 0.0, 100), choice(4, 1.0, 10)], "b": [choice(0, 0.0, 50), choice(4, 1.0, 10)]}
    once = {4: 60}
    assert total_bytes({"a": table["a"][0], "b": table["b"][1]}, once) == 170
    assert best_within_charged(table, 119, once) == {"a": table["a"][1], "b": table["b"][1]}
    assert best_within_charged(table, 120, once) == {"a": table["a"][1], "b": table["b"][0]}
    assert best_within_charged(table, 150, once) == {"a": table["a"][0], "b": table["b"][0]}
    assert best_within_charged({}, 10, once) == {}


def test_a_width_that_not_every_site_has_is_no_plan_by_itself() -> None:
    table = {"a": [choice(4, 1.0, 10), choice(8, 0.0, 20)], "b": [choice(8, 0.0, 20), choice(6, 2.0, 15)]}
    found = best_within_charged(table, 30, {4: 5, 8: 5})
    assert {name: c.scheme.bits for name, c in found.items() if c.scheme} == {"a": 4, "b": 6}
    assert best_within_charged(table, 0, {4: 50, 6: 50, 8: 1})["a"].nbytes == 20


def test_sites_that_stay_float_are_no_width_of_one_bit() -> None:
    assert total_bytes({"a": choice(0, 0.0, 100)}, {1: 7}) == 100


def test_each_pass_keeps_the_limit_and_finds_nothing_worse_than_what_is_known() -> None:
    table = random_table(2, 8)
    values, needs = (np.array([[float(getattr(c, name)) for c in own] for own in table.values()])
                     for name in ("cost", "nbytes"))  # fmt: skip
    limit, _ = between(table, 0.3)
    price = lower_bound(values, needs, limit).price
    best = summed(best_within_bytes(table, limit))[0]
    for known in (float("inf"), 2 * best, best):
        found = knapsack._pass(values, needs, limit, price, known, 10_000)
        assert found is not None and found[1] == pytest.approx(best)
        assert needs[np.arange(8), found[0]].sum() <= limit
        assert values[np.arange(8), found[0]].sum() == pytest.approx(best)
    assert knapsack._pass(values, needs, limit, price, 0.999 * best, 10_000) is None


@pytest.mark.parametrize(("power", "share"), [(0.5, 0.4), (2.0, 0.1), (0.0, 0.0)])
def test_an_error_is_a_share_of_the_power_and_none_of_zeros(power: float, share: float) -> None:
    errors = ErrorRow(site="w", elements=1, power=power, baseline=1.0, candidates=())
    assert errors.relative(0.2) == pytest.approx(share)
