from __future__ import annotations

from pathlib import Path

import pytest

import mixquant_onnx as mq
from mixquant_onnx.planning.planned import Planned


def _total(planned: Planned) -> tuple[float, int]:
    """(summed relative error, bytes) of a plan."""
    cost, nbytes = 0.0, 0
    for name, scheme in planned.plan.sites.items():
        cell = next(c for c in planned.table[name].candidates if c.scheme == scheme)
        errors = planned.table[name]
        cost, nbytes = cost + errors.elements**0.5 * cell.qe / errors.power, nbytes + cell.nbytes
    return cost, nbytes


def test_average_bits_are_kept_with_less_error_than_uniform_bits(model_path: Path) -> None:
    table = mq.inspect(model_path, method="mse").table
    cells = [(next(c for c in e.candidates if c.scheme.bits == 4), e) for e in table.values()]
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
