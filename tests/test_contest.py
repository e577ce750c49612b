"""Which cost a budget is spent by, decided on rows held back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mixquant_onnx as mq
from mixquant_onnx.config.stages import BudgetOptions, FormOptions, SearchOptions, SelectionOptions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.split import split_data
from mixquant_onnx.model import files as model_io
from mixquant_onnx.numerics.metrics import typical_noise
from mixquant_onnx.planning import selection as contest
from mixquant_onnx.planning.allocation import Priced, plan_of_bits, price_all
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.planning.search import search
from mixquant_onnx.planning.selection import Judge
from mixquant_onnx.planning.workspace import Workspace

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")

RANDOM = np.random.default_rng(0)


def two_paths(gain: float) -> ModelProto:
    """y = gain (x a) + x b: what a costs is `gain`^2 times what b costs, which no data-free cost can see."""
    weights = {name: RANDOM.standard_normal((32, 32)).astype(np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Mul", ["p", "gain"], ["q"]),
        helper.make_node("MatMul", ["x", "b"], ["r"]),
        helper.make_node("Add", ["q", "r"], ["y"]),
    ]
    stored = [numpy_helper.from_array(v, n) for n, v in {**weights, "gain": np.array(gain, np.float32)}.items()]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


DATA = Data(feeds=({"x": RANDOM.standard_normal((256, 32)).astype(np.float32)},), labels=None)
BUDGET = BudgetOptions(avg_bits=5.5)
SPLIT = split_data(two_paths(30.0), DATA, wants_selection=True)
WORK = Workspace(split=SPLIT)


def entries(model: ModelProto, **changes: list[Priced]) -> list[contest.Entry]:
    rivals = changes.get("rivals") or priced_at_all(model)
    return contest.ranked(rivals, lambda priced: plan_of_bits(priced, BUDGET, 5.5), WORK)


def priced_at_all(model: ModelProto, method: str = "minmax") -> list[Priced]:
    options = SearchOptions(method=method)
    searched = search(model_io.as_loaded(model), SelectionOptions(), options, FormOptions(), estimate=True)
    return price_all(searched, "auto", WORK)


def test_every_cost_takes_part_and_the_least_noise_wins() -> None:
    found = entries(two_paths(30.0))
    assert {e.priced.cost for e in found} == {
        "network-output",
        "layer-output",
        "balanced",
        "uniform",
        "weight-error",
    }
    assert [e.noise for e in found] == sorted(e.noise for e in found)
    assert found[0].priced.cost == "network-output"
    assert found[0].noise < 0.5 * next(e.noise for e in found if e.priced.cost == "uniform")


def test_a_cost_that_misleads_loses_to_equal_bits() -> None:
    """The measured cost turned upside down, as compensation by later layers can do on real models."""
    made = {p.cost: p for p in priced_at_all(two_paths(30.0))}
    output = made["network-output"]
    wrong = replace(output, costs={"a": output.costs["b"], "b": output.costs["a"]}, cost="wrong")
    assert entries(two_paths(30.0), rivals=[wrong, made["uniform"]])[0].priced.cost == "uniform"


def test_even_gives_all_layers_the_same_bits() -> None:
    found = {e.priced.cost: e.planned.plan.sites for e in entries(two_paths(30.0))}
    widths = [scheme.bits for scheme in found["uniform"].values()]
    assert max(widths) - min(widths) <= 1


def test_the_winner_is_told_with_the_others() -> None:
    planned = mq.inspect(two_paths(30.0), avg_bits=5.5, data=dict(DATA.feeds[0]))
    assert "cost 'network-output' does best on the rows that plans are compared on" in planned.notes[0]
    assert re.search(r"uniform \d+\.\d dB less", planned.notes[0])


def test_nothing_is_compared_where_a_cost_is_asked_for_or_there_is_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(contest, "run_all")
    mq.inspect(two_paths(30.0), avg_bits=5.5)
    mq.inspect(two_paths(30.0), avg_bits=5.5, data=dict(DATA.feeds[0]), cost="hessian")
    with pytest.raises(NameError):
        mq.inspect(two_paths(30.0), avg_bits=5.5, data=dict(DATA.feeds[0]))


def test_a_model_that_does_not_run_on_the_data_is_said_so_by_the_run() -> None:
    """The rows of x do not fit what is added to them."""
    model = two_paths(30.0)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((7, 32), np.float32), "seven"))
    model.graph.node.append(helper.make_node("Add", ["y", "seven"], ["z"]))
    model.graph.output[0].name = "z"
    with pytest.raises(mq.DataError, match="does not run on this data"):
        mq.quantize(model, avg_bits=5.5, data=dict(DATA.feeds[0]))


def test_one_width_for_all_is_among_the_plans_where_it_fits_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost knows no bytes of functions and nodes; one width needs the fewest of them."""
    model = two_paths(1.0)
    feed = dict(DATA.feeds[0])
    for bits in (3, 6):
        uniform = mq.quantize(model, bits=bits, data=feed, verify=False)
        planned = mq.inspect(model, max_size=f"{uniform.nbytes_after}B", data=feed)
        assert any("one width" in note for note in planned.notes) or {s.bits for s in planned.plan.sites.values()} == {
            bits
        }
    monkeypatch.setattr(Judge, "from_table", lambda _, planned: len({s.bits for s in planned.plan.sites.values()}))
    cnn = Path(__file__).resolve().parent.parent / "models" / "digits_cnn"
    data = {"input": np.load(cnn / "calib.npz")["input"][:32]}
    size = mq.quantize(cnn / "model.onnx", bits=4, method="mse", verify=False).nbytes_after
    found = mq.inspect(cnn / "model.onnx", max_size=f"{size}B", method="mse", data=data)
    assert {s.bits for s in found.plan.sites.values()} == {4}


def test_the_plan_that_is_best_as_finished_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What layers make up for may turn the order round; a plan far behind is not finished to be compared."""
    order = {"weight-error": 1.0, "uniform": 2.0, "network-output": 30.0}
    by_plan: dict[tuple[tuple[str, int], ...], str] = {}

    def key(planned: Planned) -> tuple[tuple[str, int], ...]:
        return tuple((name, scheme.bits) for name, scheme in planned.plan.sites.items())

    monkeypatch.setattr(Judge, "from_table", lambda _, planned: order[by_plan[key(planned)]])
    finished: list[str] = []

    def in_order(_: Judge, planned: Planned) -> float:
        finished.append(by_plan[key(planned)])
        return -order[finished[-1]]

    monkeypatch.setattr(Judge, "in_order", in_order)
    chosen = [p for p in priced_at_all(two_paths(30.0), "gptq") if p.cost in order]
    bits = {"weight-error": 5.5, "uniform": 6.5, "network-output": 7.5}

    def make(priced: Priced) -> Planned:
        planned = plan_of_bits(priced, BUDGET, bits[priced.cost])
        by_plan[key(planned)] = priced.cost
        return planned

    found = contest.ranked(chosen, make, WORK)
    assert [e.priced.cost for e in found] == ["uniform", "weight-error", "network-output"]
    assert finished == ["weight-error", "uniform"]
    quick = contest.ranked(chosen, make, replace(WORK, effort="fast"))
    assert [e.priced.cost for e in quick] == ["weight-error", "uniform", "network-output"]


def test_typical_noise_is_that_of_most_rows() -> None:
    one = [[np.ones((1, 4), np.float32)]] * 3
    other = [[np.full((1, 4), 1 + error, np.float32)] for error in (0.1, 0.01, 0.001)]
    assert typical_noise(one, other) == pytest.approx(1e-4, rel=0.01)
    exact = [[np.ones((1, 4), np.float32)], *other[1:]]
    assert 0 < typical_noise(one, exact) < 1e-6
    broken = [[np.full((1, 4), np.nan, np.float32)], *other[1:]]
    assert typical_noise(one, broken) == float("inf")


@pytest.mark.parametrize(("size", "most"), [(64, 6), (2_000_000, 2)])
def test_more_plans_are_compared_as_finished_where_that_takes_little(size: int, most: int) -> None:
    model = two_paths(1.0)
    priced = priced_at_all(model)[0]
    table = {name: replace(errors, elements=size) for name, errors in priced.searched.table.items()}
    large = replace(priced, searched=replace(priced.searched, table=table))
    seconds = contest.finishing_seconds(large, WORK)
    assert min(max(int(contest._FINAL_SECONDS / seconds), 2), 6) == most
