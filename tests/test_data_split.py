"""One division of the data, at the start; every step sees the part that is meant for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, Fails, classifier, decibels, run, text, weight
from onnx import ModelProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import BATCH_BYTES, Data, batched
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.split import evaluation_rows, halves, held_out, split_data
from mixquant_onnx.errors import DataError
from mixquant_onnx.planning import selection as contest
from mixquant_onnx.planning.sensitivity import block_output
from mixquant_onnx.verification.verify import verify

MODEL = classifier()


def rows(count: int, first: int = 0) -> Array:
    """Rows of which the first entry is their number."""
    values = np.random.default_rng(count).standard_normal((count, 64)).astype(np.float32)
    values[:, 0] = first + np.arange(count)
    return values


def numbers(*parts: Data) -> list[int]:
    return [int(n) for part in parts for feed in part.feeds for n in feed["x"][:, 0]]


def one_feed(count: int, labels: Array | None = None) -> Data:
    return Data(feeds=({"x": rows(count)},), labels=labels)


def mixing() -> ModelProto:
    """Each row depends on all."""
    return text(
        """g (float[n,64] x, float[64,32] w) => (float[n,32] y)
        { h = MatMul (x, w) m = ReduceMean <axes = [0], keepdims = 1> (h) y = Sub (h, m) }""", w=weight(64, 32),
    )  # fmt: skip


@pytest.mark.parametrize(("count", "held"), [(16, 4), (24, 6), (32, 8), (64, 8), (256, 32), (1024, 256), (5000, 2500)])
def test_every_row_is_in_one_part_and_few_are_spared(count: int, held: int) -> None:
    split = split_data(MODEL, one_feed(count, np.arange(count) // 4), wants_selection=True)
    assert evaluation_rows(count) == held == split.evaluation.rows
    assert split.selection.rows == (count - held) // 4
    assert sorted(numbers(split.calibration, split.selection, split.evaluation)) == list(range(count))
    assert numbers(split.fitting) == sorted(numbers(split.calibration, split.selection))
    for part in (split.calibration, split.selection, split.evaluation, split.fitting):
        assert part.labels is not None
        np.testing.assert_array_equal(part.labels, np.array(numbers(part)) // 4)
    assert not split.in_sample


def test_without_selection_its_rows_are_to_calibrate_with() -> None:
    split = split_data(MODEL, one_feed(64), wants_selection=False)
    assert split.calibration is split.selection is split.fitting
    assert split.calibration.rows == 56


def test_each_label_has_its_share_of_every_part() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 16))
    split = split_data(MODEL, one_feed(128, labels), wants_selection=True)
    for part, each in ((split.evaluation, 2), (split.selection, 3)):
        assert part.labels is not None
        counted = np.bincount(part.labels, minlength=8)
        assert np.abs(counted - each).max() <= 1, counted


def test_rows_without_labels_are_taken_from_everywhere_in_runs() -> None:
    found = np.sort(numbers(split_data(MODEL, one_feed(256), wants_selection=False).evaluation))
    runs = found.reshape(-1, 4)
    assert (np.diff(runs, axis=1) == 1).all()
    np.testing.assert_array_equal(runs[:, 0] // 32, np.arange(8))
    assert len(set(runs[:, 0] % 32)) > 4


@pytest.mark.parametrize("count", [1, 2, 15])
def test_of_few_rows_none_are_spared(count: int) -> None:
    split = split_data(MODEL, one_feed(count), wants_selection=False)
    assert split.in_sample
    assert f"{count} row" in split.reason
    assert numbers(split.evaluation) == numbers(split.fitting) == list(range(count))


def test_a_batch_whose_rows_depend_on_each_other_is_not_cut_but_several_are_divided() -> None:
    whole = split_data(mixing(), one_feed(64), wants_selection=False)
    assert whole.in_sample
    assert "depend on each other" in whole.reason
    assert [len(feed["x"]) for feed in whole.fitting.feeds] == [64]
    feeds = tuple({"x": rows(10, 10 * k)} for k in range(6))
    split = split_data(mixing(), Data(feeds=feeds, labels=np.arange(60)), wants_selection=True)
    assert not split.in_sample
    assert split.evaluation.rows % 10 == 0
    for part in (split.calibration, split.selection, split.evaluation):
        assert all(len(feed["x"]) == 10 for feed in part.feeds)
        np.testing.assert_array_equal(part.labels, numbers(part))
    assert sorted(numbers(split.calibration, split.selection, split.evaluation)) == list(range(60))


def test_many_feeds_are_divided_as_they_are() -> None:
    feeds = tuple({"x": rows(4, 4 * k)} for k in range(16))
    split = split_data(MODEL, Data(feeds=feeds, labels=None), wants_selection=False)
    assert all(n // 4 in {m // 4 for m in numbers(split.evaluation)} for n in numbers(split.evaluation))
    assert not {n // 4 for n in numbers(split.evaluation)} & {n // 4 for n in numbers(split.fitting)}
    few = split_data(MODEL, Data(feeds=feeds[:4], labels=None), wants_selection=False)
    assert {n // 4 for n in numbers(few.evaluation)} <= {n // 4 for n in numbers(few.fitting)}


def test_rows_of_ones_own_to_evaluate_on_spare_the_others() -> None:
    own = Data(feeds=({"x": rows(5, 100)},), labels=np.arange(5))
    split = split_data(MODEL, one_feed(40), wants_selection=True, evaluation=own)
    assert numbers(split.evaluation) == list(range(100, 105))
    assert sorted(numbers(split.fitting)) == list(range(40))
    assert not split.in_sample


def test_labels_may_be_several_for_each_row_but_not_others() -> None:
    split = split_data(MODEL, one_feed(32, np.repeat(np.arange(32), 3)), wants_selection=False)
    np.testing.assert_array_equal(split.evaluation.labels, np.repeat(numbers(split.evaluation), 3))
    with pytest.raises(DataError, match="31 labels for 32 rows"):
        split_data(MODEL, one_feed(32, np.arange(31)), wants_selection=False)


def test_feeds_are_run_in_batches_of_about_equal_size() -> None:
    data = Data(feeds=({"x": rows(70)},), labels=None, axes={"x": 0})
    assert [len(feed["x"]) for feed in batched(data).feeds] == [24, 23, 23]
    assert numbers(batched(data)) == list(range(70))


def test_batches_of_large_inputs_have_fewer_rows() -> None:
    """Counted are inputs with a batch axis; a row that is larger than the limit is a batch by itself."""
    row = BATCH_BYTES // 4 // 4
    shared = np.zeros(BATCH_BYTES, np.float32)
    large = Data(feeds=({"x": np.zeros((10, row), np.float32), "y": shared},), labels=None, axes={"x": 0})
    assert [len(feed["x"]) for feed in batched(large).feeds] == [4, 3, 3]
    assert [len(feed["x"]) for feed in batched(large, 2).feeds] == [2] * 5
    huge = Data(feeds=({"x": np.zeros((2, 5 * row), np.float32)},), labels=None, axes={"x": 0})
    assert [len(feed["x"]) for feed in batched(huge).feeds] == [1, 1]


def test_rows_are_held_out_and_halved() -> None:
    data = Data(feeds=({"x": rows(64)},), labels=None, axes={"x": 0})
    learned, judged = held_out(data, 8)
    assert numbers(judged) == [28, 29, 30, 31, 60, 61, 62, 63]
    assert sorted(numbers(learned, judged)) == list(range(64))
    both = halves(data)
    assert both is not None
    assert [part.rows for part in both] == [32, 32]
    assert sorted(numbers(*both)) == list(range(64))
    assert halves(one_feed(64)) is None


class Seen:
    """Which rows each step of a run meets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitted: list[set[int]] = []
        self.selected: list[set[int]] = []
        self.told: set[int] = set()
        plain, proved = Calibration._sums, verify

        def calibrates(own: Calibration, *given: Any, **named: Any) -> Any:
            self.fitted.append(set(numbers(Data(feeds=own.feeds, labels=None))))
            return plain(own, *given, **named)

        def selects(session: Any, data: Data) -> Any:
            self.selected.append(set(numbers(data)))
            return run_all(session, data)

        def tells(*given: Any, **named: Any) -> Any:
            self.told |= set(numbers(next(g for g in given if isinstance(g, Data))))
            return proved(*given, **named)

        monkeypatch.setattr(Calibration, "_sums", calibrates)
        for module in (contest, block_output):
            monkeypatch.setattr(module, "run_all", selects)
        monkeypatch.setattr("mixquant_onnx.pipeline.verify", tells)


@pytest.mark.parametrize("goal", [{}, {"avg_bits": 4}, {"max_size": "30%"}, {"min_sqnr": 5.0}])
def test_what_is_told_is_of_rows_that_no_other_step_has_met(
    goal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    result = mq.quantize(MODEL, data={"x": rows(64)}, **goal)
    fitted = set().union(*seen.fitted)
    assert fitted == set(range(64)) - seen.told
    assert result.verification is not None
    assert result.verification.samples == len(seen.told) == (16 if "min_sqnr" in goal else 8)
    assert seen.fitted[-1] == fitted
    if goal:
        selected = set().union(*seen.selected)
        assert selected and not selected & seen.told
        assert len(selected - seen.fitted[0]) >= 12


def test_a_figure_on_rows_fitted_to_says_so_and_by_how_much_it_is_too_good() -> None:
    model = text(
        """g (float[n,t,64] x, float[64,64] v, float[64,32] w) => (float[n,t,32] y)
        { a = MatMul (x, v) b = Relu (a) y = MatMul (b, w) }""", v=weight(64, 64), w=weight(64, 32),
    )  # fmt: skip
    random = np.random.default_rng(0)
    fresh = {"x": random.standard_normal((500, 4, 64)).astype(np.float32)}
    too_good, estimates = [], []
    for _ in range(6):
        few = {"x": random.standard_normal((14, 4, 64)).astype(np.float32)}
        told, true = (mq.quantize(model, data=few, bits=3, eval_data=own).verification for own in (None, fresh))
        assert told and told.deployed and told.in_sample and told.optimism_db is not None
        assert true and true.deployed and not true.in_sample
        assert told.deployed.sqnr_db is not None and true.deployed.sqnr_db is not None
        too_good.append(told.deployed.sqnr_db - true.deployed.sqnr_db)
        estimates.append(told.optimism_db)
    assert np.mean(too_good) > 1.5
    assert np.mean(too_good) - 0.5 < np.mean(estimates) < np.mean(too_good) + 3, (too_good, estimates)


def test_where_rows_cannot_be_cut_how_much_too_good_is_not_known() -> None:
    proved = mq.quantize(mixing(), data={"x": rows(40)}, bits=3).verification
    assert proved is not None
    assert proved.in_sample
    assert proved.optimism_db is None


def saved(folder: Path, name: str, **arrays: Array) -> Path:
    np.savez(folder / name, allow_pickle=False, **arrays)
    return folder / name


@pytest.mark.parametrize(("model", "count", "named"), [(MODEL, 10, "10 rows"), (mixing(), 64, "depend on each other")])
def test_a_promise_without_rows_to_judge_by_is_an_error(
    model: ModelProto, count: int, named: str, tmp_path: Path, output: Path, fails: Fails
) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    data = saved(tmp_path, "data.npz", x=rows(count))
    line = fails(6, tmp_path / "model.onnx", output, "--min-sqnr", "10", "--data", data)
    assert named in line and "--eval-data" in line and ".npz" in line
    assert "--eval-data" in fails(6, tmp_path / "model.onnx", output, "--min-sqnr", "10")


@pytest.mark.parametrize("with_data", [False, True])
def test_a_promise_is_judged_by_rows_of_ones_own(with_data: bool, tmp_path: Path, output: Path) -> None:
    onnx.save(MODEL, tmp_path / "model.onnx")
    judge = saved(tmp_path, "judge.npz", x=rows(30), labels=np.arange(30) % 10)
    data = ["--data", str(saved(tmp_path, "data.npz", x=rows(10)))] if with_data else []
    given = [str(tmp_path / "model.onnx"), str(output), "--min-sqnr", "10", "--eval-data", str(judge), *data]
    assert main([*given, "--json", str(tmp_path / "run.json")]) == 0
    assert '"samples": 30' in (tmp_path / "run.json").read_text(encoding="utf8")
    assert '"accuracy": null' not in (tmp_path / "run.json").read_text(encoding="utf8")


def test_rows_to_judge_by_that_do_not_fit_are_refused(tmp_path: Path, output: Path, fails: Fails) -> None:
    onnx.save(MODEL, tmp_path / "model.onnx")
    judge = saved(tmp_path, "judge.npz", x=rows(6), labels=np.arange(5))
    assert "5 labels for 6 rows" in fails(6, tmp_path / "model.onnx", output, "--eval-data", judge)


def mlp(last: str, seed: int) -> ModelProto:
    random = np.random.default_rng(seed)
    shapes: Sequence[tuple[int, int]] = ((32, 64), (64, 64), (64, 8))
    weights = {f"w{k}": (random.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for k, s in enumerate(shapes)}
    return text(
        f"""g (float[n,32] x, float[32,64] w0, float[64,64] w1, float[64,8] w2) => (float[{last},8] y)
        {{ a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Relu (c) y = MatMul (d, w2) }}""", **weights,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_a_promise_is_kept_whatever_dimensions_are_called(seed: int) -> None:
    """The same net, its output's batch named as the input's or otherwise: the same file, and a true figure."""
    random = np.random.default_rng(seed + 10)
    data, fresh = ({"x": random.standard_normal((count, 32)).astype(np.float32)} for count in (48, 1000))
    made = [mq.quantize(mlp(last, seed), data=data, min_sqnr=20.0) for last in ("n", "m")]
    assert made[0].plan.sites == made[1].plan.sites
    told = [one.verification.deployed.sqnr_db or 0.0 for one in made if one.verification and one.verification.deployed]
    assert told[0] == told[1] >= 20
    judged = [run(model, fresh)[0] for model in (mlp("n", seed), made[0].model)]
    assert abs(decibels(judged[0], judged[1]) - told[0]) < 2.5
