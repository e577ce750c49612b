from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import mixquant_onnx as mq
from mixquant_onnx.numerics.granularity import Grid
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.charged import best_within_charged, total_bytes
from mixquant_onnx.planning.allocators.knapsack import Choice, best_within_bytes, smallest_within_cost
from mixquant_onnx.planning.plan import Planned

Table = dict[str, list[Choice]]


def _random_table(seed: int, sites: int = 5) -> Table:
    """Error about 4 times as large for each bit less, with noise; sizes that differ widely."""
    random = np.random.default_rng(seed)
    table: Table = {}
    for site in range(sites):
        size, level = int(random.integers(100, 20000)), float(random.lognormal())
        table[f"s{site}"] = [
            Choice(
                scheme=Scheme(bits=bits, grid=Grid(per="channel")),
                cost=level * 4.0 ** (8 - bits) * float(random.lognormal(0, 0.3)),
                nbytes=size * bits // 8,
            )
            for bits in range(2, 9)
        ]
    return table


def _all_plans(table: Table) -> list[tuple[float, int]]:
    return [(sum(c.cost for c in p), sum(c.nbytes for c in p)) for p in itertools.product(*table.values())]


@pytest.mark.parametrize("seed", range(8))
def test_the_least_cost_within_bytes_is_that_of_all_plans(seed: int) -> None:
    table = _random_table(seed)
    plans = _all_plans(table)
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
    table = _random_table(seed, sites=4)
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
    table = _random_table(0)
    assert best_within_charged(table, 50_000, {}) == best_within_bytes(table, 50_000)
    least = best_within_charged(table, 0, {2: 10, 3: 5000})
    assert {c.scheme.bits for c in least.values() if c.scheme} == {2}


@pytest.mark.parametrize("seed", range(8))
def test_the_fewest_bytes_within_cost_are_those_of_all_plans(seed: int) -> None:
    table = _random_table(seed)
    plans = _all_plans(table)
    for budget in (10.0, 100.0, 1000.0):
        if not any(cost <= budget for cost, _ in plans):
            continue
        chosen = smallest_within_cost(table, budget)
        assert sum(c.cost for c in chosen.values()) <= budget
        best = min(nbytes for cost, nbytes in plans if cost <= budget)
        assert sum(c.nbytes for c in chosen.values()) == best


def _total(planned: Planned) -> tuple[float, int]:
    """(summed relative error, bytes) of a plan."""
    cost, nbytes = 0.0, 0
    for name, scheme in planned.plan.sites.items():
        cell = next(c for c in planned.table[name].cells if c.scheme == scheme)
        errors = planned.table[name]
        cost, nbytes = cost + errors.elements**0.5 * cell.qe / errors.power, nbytes + cell.nbytes
    return cost, nbytes


def test_average_bits_are_kept_with_less_error_than_uniform_bits(model_path: Path) -> None:
    table = mq.inspect(model_path, method="mse").table
    cells = [(next(c for c in e.cells if c.scheme.bits == 4), e) for e in table.values()]
    nbytes, elements = sum(c.nbytes for c, _ in cells), sum(e.elements for e in table.values())
    chosen = mq.inspect(model_path, avg_bits=8.01 * nbytes / elements)
    cost, taken = _total(chosen)
    assert taken <= 1.0015 * nbytes
    assert cost <= sum(e.elements**0.5 * c.qe / e.power for c, e in cells) * (1 + 1e-9)


def test_a_budget_for_the_model_takes_fewer_bytes_than_the_rule_for_the_same_error(model_path: Path) -> None:
    layer, model = (mq.inspect(model_path, qem=2, scope=scope, method="mse") for scope in ("layer", "model"))
    allowed = 2 * sum(errors.elements**0.5 * errors.baseline / errors.power for errors in model.table.values())
    assert _total(model)[0] <= allowed * 1.001
    assert _total(model)[1] < _total(layer)[1]


def test_average_bits_below_the_smallest_possible_name_it(model_path: Path) -> None:
    with pytest.raises(mq.OptionError, match=r"smallest possible, 2\.\d"):
        mq.quantize(model_path, avg_bits=2.0)
