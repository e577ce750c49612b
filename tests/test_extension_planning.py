"""A rule and a sensitivity are each added by one file and one row: here by a function and a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import classifier, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.allocators.rules import RULES, Rule
from mixquant_onnx.planning.error_table import ErrorRow, ErrorTable
from mixquant_onnx.planning.sensitivity.measurement import Costs, Measurement
from mixquant_onnx.planning.sensitivity.table import SENSITIVITIES, Sensitivity


def last_with_most_bits(table: ErrorTable, qem: float) -> Mapping[str, Scheme]:
    """5 bits each, and 7 for the last."""
    names = list(table)
    bits = {name: 7 if name == names[-1] else 5 for name in names}
    return {n: next(c.scheme for c in e.candidates if c.scheme.bits == bits[n]) for n, e in table.items()}


def no_limit(errors: ErrorRow, qem: float) -> float:
    return float("inf")


@pytest.mark.usefixtures("stored_at_a_loss")
def test_a_rule_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Rule(allocate=last_with_most_bits, limit=no_limit, allocator="last")
    monkeypatch.setitem(RULES, "last", row)
    result = mq.quantize(classifier(), rule="last")
    assert [s.bits for s in result.plan.sites.values()] == [5, 7]
    assert result.plan.allocator == "last" and result.plan.settings["qem"] == 2
    monkeypatch.delitem(RULES, "last")
    with pytest.raises(mq.OptionError, match="--rule 'last' is not known; use safe or paper"):
        mq.quantize(classifier(), rule="last")


def two_alike() -> ModelProto:
    """Two layers of equal size."""
    return text(
        "g (float[n,32] x, float[32,32] a, float[32,32] b) => (float[n,32] y) { h = MatMul (x, a) y = MatMul (h, b) }",
        a=weight(32, 32), b=weight(32, 32, seed=1),
    )  # fmt: skip


FIRST = 1e6


def first_weighs_most(measurement: Measurement) -> Costs:
    """Squared error, a million times for the first weight."""
    first = next(iter(measurement.table))
    return {
        name: {c.scheme: c.qe * (FIRST if name == first else 1) for c in errors.candidates}
        for name, errors in measurement.table.items()
    }


@pytest.mark.usefixtures("stored_at_a_loss")
@pytest.mark.parametrize("given", ["first", "eins"])
def test_a_sensitivity_is_one_row(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Sensitivity(measure=first_weighs_most, alias="eins", needs_rows=False)
    monkeypatch.setitem(SENSITIVITIES, "first", row)
    options: dict[str, Any] = {"avg_bits": 5.5, "cost": given, "verify": False, "data_free": True}
    one, two = mq.quantize(two_alike(), **options).plan.sites.values()
    assert one.bits > two.bits + 2
    monkeypatch.delitem(SENSITIVITIES, "first")
    with pytest.raises(mq.OptionError, match=f"--cost '{given}' is not known"):
        mq.quantize(classifier(), **options)


def test_a_sensitivity_of_rows_is_refused_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SENSITIVITIES, "first", Sensitivity(measure=first_weighs_most))
    with pytest.raises(mq.OptionError, match="--cost first needs --data"):
        mq.quantize(classifier(), avg_bits=5, cost="first", data_free=True)


def test_a_sensitivity_competes_where_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for competes in (True, False):
        monkeypatch.setitem(
            SENSITIVITIES, "first", Sensitivity(measure=first_weighs_most, competes_by_default=competes)
        )
        planned = mq.inspect(classifier(), avg_bits=5, data={"x": rows})
        assert any("first" in note for note in planned.notes) == competes


def test_older_names_of_sensitivities_are_taken(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "in.onnx")
    plans = []
    for name in ("energy", "weight-error"):
        made = tmp_path / f"{name}.onnx"
        assert main([str(tmp_path / "in.onnx"), str(made), "--avg-bits", "4", "--cost", name, "--data-free"]) == 0
        plans.append(made.read_bytes())
    assert plans[0] == plans[1]
