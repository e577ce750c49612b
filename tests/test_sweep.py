"""`mixquant-onnx sweep`: one row a plan, the same in a terminal, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import Fails, classifier, decibels, files_under, text, weight
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.cli.sweep import numbers
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.split import split_data
from mixquant_onnx.planning import allocation
from mixquant_onnx.report.sections.tradeoff import PointData, Tradeoff, flat
from mixquant_onnx.tradeoff import sweep as sweeping
from mixquant_onnx.tradeoff.point import Point, marked

CNN = ROOT / "models" / "digits_cnn" / "model.onnx"
Row = dict[str, Any]
Sweep = Callable[..., list[Row]]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Run the command; the rows of its JSON."""

    def run(*arguments: object) -> list[Row]:
        path = tmp_path / "rows.json"
        assert main(["sweep", *map(str, arguments), "--json", str(path)]) == 0
        written = json.loads(path.read_text(encoding="utf8"), parse_constant=pytest.fail)
        assert list(written) == list(Tradeoff.__annotations__) and written["format"] == 1
        rows: list[Row] = written["points"]
        path.unlink()
        return rows

    return run


def point(nbytes: int, sqnr: float | None, cost: float = 1.0) -> Point:
    return Point(setting="", nbytes=nbytes, average_bits=4.0, cost=cost, sqnr_db=sqnr)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(10, 5.0, 0.0), (20, 9.0, 0.0), (30, 12.0, 0.0)], [True, True, True]),
        ([(10, 9.0, 0.0), (20, 9.0, 0.0), (30, 8.0, 0.0)], [True, False, False]),
        ([(10, 5.0, 0.0), (20, 4.0, 9.0), (30, 6.0, 0.0)], [True, False, True]),
        ([(10, 7.0, 0.0), (10, 5.0, 0.0), (10, 7.0, 0.0)], [True, False, False]),
        ([(10, None, 3.0), (20, None, 4.0), (30, None, 1.0)], [True, False, True]),
        ([(10, 50.0, 0.0), (20, math.inf, 0.0), (30, math.inf, 0.0)], [True, True, False]),
        ([(10, -3.0, 0.0), (20, -2.0, 0.0)], [True, True]),
        ([], []),
    ],
)
def test_points_are_marked_that_no_other_is_as_small_and_better_than(
    points: list[tuple[int, float | None, float]], front: list[bool]
) -> None:
    typed = [point(*values) for values in points]
    found = marked(typed[::-1])
    assert sorted((p.nbytes, -(p.sqnr_db or 0)) for p in found) == [(p.nbytes, -(p.sqnr_db or 0)) for p in found]
    assert sorted(p.nbytes for p in found) == [p.nbytes for p in typed]
    assert [p.pareto for p in found] == front


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1,2,4", [1, 2, 4]), ("3", [3]), (" 2.5 , 4 ", [2.5, 4]), ("2.5..4", [2.5, 3, 3.5, 4]), ("2..4:1", [2, 3, 4]),
        ("2..3.2", [2, 2.5, 3]), ("3..3", [3]), ("3..3.3:0.1", [3, 3.1, 3.2, 3.3]), ("2, 3..4:1 ,8", [2, 3, 4, 8]),
    ],
)  # fmt: skip
def test_numbers_are_lists_and_ranges(written: str, read: list[float]) -> None:
    assert numbers(written, "--qem") == read


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("", "--qem"),
        *[(f"--qem {text}", "--qem") for text in ("few", "1,,2", ",", "1..", "4..1", "1..2:0", "1...2", "1;2")],
        *[(f"--avg-bits {text}", "--avg-bits") for text in ("few", "8..2", "2..8:0")],
        *[(f"--qem {text}", "QEM") for text in ("0", "-1", "0..4", "nan")],
        *[(f"--avg-bits {text}", "2 to 32") for text in ("1.9", "33", "1..4", "nan")],
        ("--qem inf", "--qem"),
        ("--avg-bits 2", "smallest possible"),
        ("--qem", "--qem"),
        ("--qem 1 --csv", "--csv"),
        ("--qem 1 --max-drop 1%", "goal"),
        ("--qem 1 --min-sqnr 0", "goal"),
        ("--qem 1 --max-size 1MB", "goal"),
        ("--qem 1 other.onnx", "1 file name"),
        ("--qem 1 --colour red", "--colour"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(options: str, named: str, model: Path, fails: Fails) -> None:
    assert named in fails(2, "sweep", model, *options.split())


def test_a_sweep_has_one_row_a_plan_and_csv_and_json_agree(
    model: Path, tmp_path: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_under(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    rows = sweep(model, "--qem", "1,2,400", "--avg-bits", "2.5..8", "--csv", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert listed == [
        {key: "" if v is None else str(v) for key, v in flat(cast(PointData, row)).items()} for row in rows
    ]
    assert list(rows[0]) == list(Point.__dataclass_fields__)
    wanted = {*(f"qem {x}" for x in (1, 2, 400)), *(f"avg-bits {x / 2:g}" for x in range(5, 17))}
    assert len(rows) == 15 and {row["setting"] for row in rows} == wanted
    assert [row["nbytes"] for row in rows] == sorted(row["nbytes"] for row in rows)
    for row in rows:
        better = [o for o in rows if o["nbytes"] <= row["nbytes"] and o["sqnr_db"] >= row["sqnr_db"] and o is not row]
        strictly = [o for o in better if (o["nbytes"], o["sqnr_db"]) != (row["nbytes"], row["sqnr_db"])]
        assert not (row["pareto"] and strictly) and (row["pareto"] or better)
        if row["setting"].startswith("avg-bits"):
            assert row["average_bits"] <= float(row["setting"].split()[1])
    printed = capsys.readouterr().out
    assert all(row["setting"] in printed for row in rows)
    assert files_under(tmp_path).keys() - before.keys() == {tmp_path / "rows.csv"}


@pytest.mark.parametrize(
    ("scope", "rule", "plans"), [("layer", "paper", 4), ("layer", "safe", 3), ("model", "safe", 4)]
)
@pytest.mark.parametrize("verify", [[], ["--no-verify"]])
def test_each_row_is_what_a_run_of_that_plan_gives(
    scope: str, rule: str, plans: int, verify: list[str], model: Path, sweep: Sweep
) -> None:
    """`plans` differ: on the floor of the safe rule, a QEM of 400 is none of its own here."""
    chosen: dict[str, Any] = {"scope": scope, "rule": rule, "method": "mse"}
    flags = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    rows = sweep(model, "--qem", "1,400", "--avg-bits", "3,7.5", *flags, *verify)
    assert len({row["average_bits"] for row in rows}) == plans
    for row in rows:
        name, number = row["setting"].split()
        options: dict[str, Any] = {"avg_bits": float(number)} if name == "avg-bits" else {"qem": float(number)}
        run = mq.quantize(model, **chosen, **options)
        assert (row["nbytes"], row["average_bits"]) == (run.nbytes_after, pytest.approx(run.average_bits))
        assert run.verification and row["accuracy"] is None
        assert row["sqnr_db"] == (None if verify else pytest.approx(run.verification.quality[1].sqnr_db))


@pytest.mark.parametrize("verify", [[], ["--no-verify"]])
def test_plans_are_compared_with_plain_int8(verify: list[str], model: Path, tmp_path: Path) -> None:
    fixed = ["--data-free", "--method", "mse"]
    assert main(["sweep", str(model), "--qem", "1", "--json", str(tmp_path / "s.json"), *fixed, *verify]) == 0
    plain = json.loads((tmp_path / "s.json").read_text())["plain_int8"]
    same: dict[str, Any] = {"bits": 8, "granularity": "tensor", "method": "minmax", "rounding": "nearest"}
    run = mq.quantize(model, rule="paper", data_free=True, **same)
    assert run.verification is not None and not run.plan.skipped
    assert (plain["nbytes"], plain["average_bits"]) == (run.nbytes_after, pytest.approx(run.average_bits))
    assert plain["sqnr_db"] == (None if verify else pytest.approx(run.verification.quality[1].sqnr_db))


def test_the_accuracy_of_float_is_told_on_the_same_rows(tmp_path: Path) -> None:
    with np.load(CNN.with_name("eval.npz")) as rows:
        values, labels = rows["input"][:256], rows["labels"][:256].copy()
    labels[::2] = (labels[::2] + 1) % 10
    np.savez(tmp_path / "d.npz", input=values, labels=labels)
    given = ["--data", str(tmp_path / "d.npz"), "--method", "mse", "--cost", "energy", "--avg-bits", "8"]
    assert main(["sweep", str(CNN), "--json", str(tmp_path / "s.json"), *given]) == 0
    written = json.loads((tmp_path / "s.json").read_text())
    held = split_data(onnx.load(CNN), Data(feeds=({"input": values},), labels=labels), wants_selection=False).evaluation
    assert held.labels is not None
    wanted = onnxruntime.InferenceSession(CNN).run(None, dict(held.feeds[0]))[0].argmax(1)
    assert (
        written["float_accuracy"] == pytest.approx((wanted == held.labels).mean()) and written["float_accuracy"] < 0.8
    )
    assert written["plain_int8"]["accuracy"] == pytest.approx(written["float_accuracy"], abs=0.1)


def test_quality_is_measured_on_data_that_was_held_back(tmp_path: Path, sweep: Sweep) -> None:
    data, output = tmp_path / "some.npz", tmp_path / "out.onnx"
    with np.load(CNN.with_name("eval.npz")) as all_rows:
        values, labels = all_rows["input"][:256], all_rows["labels"][:256]
    np.savez(data, input=values, labels=labels)
    fixed = ["--method", "mse", "--cost", "energy", "--rounding", "nearest"]
    (row,) = sweep(CNN, "--avg-bits", "2.6", "--data", data, *fixed)
    assert main([str(CNN), str(output), "--avg-bits", "2.6", "--no-verify", *fixed]) == 0
    whole = Data(feeds=({"input": values},), labels=labels)
    held = split_data(onnx.load(CNN), whole, wants_selection=False).evaluation
    assert held.labels is not None and len(held.labels) == 32
    wanted, got = (onnxruntime.InferenceSession(p).run(None, dict(held.feeds[0]))[0] for p in (CNN, output))
    assert row["sqnr_db"] == pytest.approx(decibels(wanted, got), abs=0.01)
    assert row["accuracy"] == np.mean(got.argmax(1) == held.labels) < 1
    assert row["finished"] is True
    assert row["top1_agreement"] == np.mean(got.argmax(1) == wanted.argmax(1))


def again(*_: object, **__: object) -> None:
    raise AssertionError("measured again")


@pytest.mark.parametrize("labelled", [False, True])
def test_a_calibrated_plan_is_put_together_and_run_once(
    labelled: bool, model: Path, tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """At the end of a network of one layer there is nothing to make up for: as good as a run on the same rows."""
    data, rows = tmp_path / "data.npz", weight(96, 64) * 10
    onnx.save(
        text("g (float[N,64] x, float[64,64] v) => (float[N,64] y) { y = MatMul (x, v) }", v=weight(64, 64)), model
    )
    labels: dict[str, Any] = {"labels": np.argmax(rows @ weight(64, 64), axis=1)} if labelled else {}
    np.savez(data, x=rows, **labels)
    settings = [model, "--avg-bits", "4,7", "--data", data, "--rounding", "nearest"]
    whole = sweep(*settings, "--effort", "thorough", "--method", "gptq")
    assert "last step" not in capsys.readouterr().out
    monkeypatch.setattr(sweeping, "execute", again)
    assert [row["finished"] for row in sweep(*settings, "--no-verify")] == [None, None]
    assert "last step" not in capsys.readouterr().out
    points = sweep(*settings, "--method", "gptq")
    printed = capsys.readouterr().out
    assert "put together without the last step" in printed and "a run, which finishes its plan, is usually" in printed
    assert [row["finished"] for row in whole + points] == [True, True, False, False]
    for row, other in zip(points, whole, strict=True):
        for key in ("setting", "nbytes", "average_bits", "rows", "data"):
            assert row[key] == other[key]
        assert row["sqnr_db"] == pytest.approx(other["sqnr_db"], abs=1)
        assert row["top1_agreement"] == pytest.approx(other["top1_agreement"], abs=0.1)
        assert (row["accuracy"] is None) != labelled and (not labelled or row["accuracy"] > 0.5)


def test_plans_from_the_table_are_judged_on_rows_that_nothing_was_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[bytes]] = {"solve_table": set(), "session_quality": set()}

    def recorded(name: str) -> Callable[..., Any]:
        plain = getattr(sweeping, name)

        def run(*given: Any) -> Any:
            data = next(one for one in given if isinstance(one, Data))
            used[name] |= {np.asarray(row).tobytes() for feed in data.feeds for row in feed["x"]}
            return plain(*given)

        return run

    for name in used:
        monkeypatch.setattr(sweeping, name, recorded(name))
    mq.sweep(classifier(), average_bits=[4], data={"x": weight(96, 64) * 10})
    fitted, judged = used.values()
    assert len(judged) == 12 and len(fitted) == 63 and not fitted & judged


def test_a_plan_with_nothing_to_gain_is_the_float_model() -> None:
    model = text("g (float[N,20] x, float[20,16] w) => (float[N,16] y) { y = MatMul (x, w) }", w=weight(20, 16))
    (point,) = mq.sweep(model, average_bits=[8], data={"x": weight(96, 20)}, method="gptq")
    assert (point.nbytes, point.sqnr_db, point.finished) == (model.ByteSize(), math.inf, True)


@pytest.mark.parametrize("whole", [False, True])
def test_a_point_by_the_safe_rule_takes_the_bits_that_keep_it_when_calibrated(whole: bool) -> None:
    """One weight widens the range, so that int8 is no better than 6 bits with a scale for each channel."""
    w = weight(96, 128)
    w[5, 7] = 1.2
    model = text("g (float[N,96] x, float[96,128] w) => (float[N,128] y) { y = MatMul (x, w) }", w=w)
    random = np.random.default_rng(0)
    rows = (random.standard_normal((256, 8)) @ random.standard_normal((8, 96))).astype(np.float32)
    effort: Any = "thorough" if whole else "normal"
    settings: Any = {"data": {"x": rows}, "method": "gptq", "effort": effort}
    (safe,), (paper,) = (mq.sweep(model, qems=[2], rule=rule, **settings) for rule in ("safe", "paper"))
    assert safe.average_bits == pytest.approx(paper.average_bits + 1, abs=0.01)
    assert (safe.finished, paper.finished) == (whole, whole)
    assert safe.nbytes == mq.quantize(model, qem=2, **settings).nbytes_after


def test_average_bits_that_are_too_few_are_left_out_and_told(
    model: Path, sweep: Sweep, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sweep(model, "--avg-bits", "2..3:0.2", "--no-verify")
    assert {row["setting"] for row in rows} == {"avg-bits 2.4", "avg-bits 2.6", "avg-bits 2.8", "avg-bits 3"}
    told = capsys.readouterr().err
    assert told.startswith("note: ") and told.endswith(": --avg-bits 2, 2.2 left out\n") and told.count("\n") == 1
    found = re.search(r"smallest possible, (\d\.\d\d) ", told)
    assert found and 2.2 < float(found[1]) < 2.4
    assert len(sweep(model, "--avg-bits", found[1], "--no-verify")) == 1
    assert not capsys.readouterr().err
    assert "smallest possible" in fails(2, "sweep", model, "--avg-bits", "2,2.2")
    assert [row["setting"] for row in sweep(model, "--avg-bits", "2", "--qem", "1", "--no-verify")] == ["qem 1"]


def test_labels_of_another_number_than_rows_are_refused_before_the_search(
    model: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "price", again)
    data = tmp_path / "data.npz"
    np.savez(data, x=weight(32, 64), labels=np.zeros(31, np.int64))
    assert "31 labels for 32 rows" in fails(6, "sweep", model, "--qem", "2", "--data", data)


@pytest.mark.parametrize("option", ["--csv", "--json", "--table"])
def test_a_file_that_cannot_be_written_is_refused_before_the_search(
    option: str, model: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "price", again)
    assert "does not exist" in fails(4, "sweep", model, "--qem", "2", option, tmp_path / "absent" / "file")
    assert "is a folder" in fails(4, "sweep", model, "--qem", "2", option, tmp_path)


def test_noise_and_proxies_are_named_and_no_agreement_is_told_from_few_of_them(
    model: Path, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    (noise,) = sweep(model, "--qem", "2")
    assert (noise["rows"], noise["data"], noise["top1_agreement"]) == (4, "rows of noise", None)
    assert "quality: deployed, on 4 rows of noise" in capsys.readouterr().out
    (photographs,) = sweep(CNN, "--qem", "2", "--bits", "8")
    assert photographs["data"] == "proxy photographs" and photographs["rows"] < 20
    assert photographs["top1_agreement"] is None
    assert f"on {photographs['rows']} proxy photographs" in capsys.readouterr().out
