"""A file of a given size, or the smallest file that keeps a promise; judged here again, from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import Array, Fails, classifier, decibels, files_under, float_tensors, text, weight
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx import run as goals
from mixquant_onnx.api import checked_config
from mixquant_onnx.cli.main import main
from mixquant_onnx.model import files as model_io
from mixquant_onnx.planning.sensitivity import weight_error
from mixquant_onnx.planning.sensitivity.measurement import Measurement

SIZE = "wc -c < {model}"
"""A measure without noise that wants a large file: keeping a share of it takes a file of that share."""

CNN = ROOT / "models" / "digits_cnn" / "model.onnx"
UNSEEN: dict[str, Any] = {"data_free": True, "verify": False}
"""For sizes, which no input changes."""

QUICK: dict[str, Any] = {"method": "mse", "rounding": "nearest", "cost": "energy"}


def size_of(path: Path) -> int:
    return path.stat().st_size


def told(model: Path, output: Path | None, **options: Any) -> tuple[mq.RunResult, list[str]]:
    """The result of a run, and what it said of each try."""
    lines: list[str] = []
    loaded = model_io.as_loaded(model)
    return goals.run(loaded, checked_config(**options), output, "the model", tell=lines.append)[1], lines


@pytest.mark.parametrize("share", [0.12, 0.15, 0.2, 0.26])
def test_a_file_of_a_share_of_the_input_is_at_most_that_and_nearly_that(
    share: float, model_path: Path, output: Path
) -> None:
    mq.quantize(model_path, output, max_size=f"{share:.0%}", **UNSEEN)
    assert 0.99 * share * size_of(model_path) <= size_of(output) <= share * size_of(model_path)


@pytest.mark.parametrize("limit", ["0.15MB", "150 kb", 150000, "150000", "150000B"])
def test_a_size_is_decimal_bytes(limit: str | int) -> None:
    assert 0.99 * 150e3 <= mq.quantize(CNN, max_size=limit, **UNSEEN).nbytes_after <= 150e3


@pytest.mark.parametrize("bits", [(2, 4), (3, 5, 8)])
def test_a_size_that_all_widths_fit_into_takes_the_most_bits(bits: tuple[int, ...], model_path: Path) -> None:
    plan = mq.inspect(model_path, max_size="90%", bits=bits).plan
    assert {scheme.bits for scheme in plan.sites.values()} == {max(bits)}


@pytest.mark.parametrize("bits", [3, 4])
def test_a_size_is_spent_no_worse_than_on_one_width(bits: int, model_path: Path) -> None:
    """Though each further width brings functions into the file."""
    one = mq.quantize(model_path, bits=[bits], method="mse", **UNSEEN)
    found = mq.inspect(model_path, max_size=f"{one.nbytes_after}B", method="mse", **UNSEEN)
    cost = weight_error.measure(Measurement(found.table, onnx.load(model_path), found.sites))
    several = sum(cost[name][scheme] for name, scheme in found.plan.sites.items())
    assert several <= sum(cost[name][scheme] for name, scheme in one.plan.sites.items())


@pytest.mark.parametrize(("name", "few", "share"), [("cnn", (2, 4, 8), 0.22), ("transformer", (4, 8), 0.25)])
def test_few_widths_come_near_the_size_too(name: str, few: tuple[int, ...], share: float) -> None:
    model = CNN.parent.parent / f"digits_{name}" / "model.onnx"
    result = mq.quantize(model, max_size=f"{share:.0%}", bits=few, **UNSEEN)
    assert 0.98 * share * size_of(model) <= result.nbytes_after <= share * size_of(model)


def test_external_data_counts_in_the_size(tmp_path: Path, output: Path) -> None:
    source = tmp_path / "large.onnx"
    onnx.save(onnx.load(CNN), source, save_as_external_data=True, location="large.bin", size_threshold=16)
    result = mq.quantize(source, output, max_size="150kB", **UNSEEN)
    assert len(result.files) == 2
    assert 0.98 * 150e3 <= sum(map(size_of, result.files)) <= 150e3


def test_a_size_below_the_smallest_possible_names_it(model: Path, output: Path, fails: Fails) -> None:
    found = re.search(r"smallest possible, (\d+) bytes", fails(2, model, output, "--max-size", "1%"))
    assert found
    least = int(found[1])
    fails(2, model, output, "--max-size", least - 1)
    assert main([str(model), str(output), "--max-size", str(least)]) == 0
    assert size_of(output) == least


def test_average_bits_are_spent_but_not_exceeded(model_path: Path) -> None:
    for bits in (3.0, 5.5):
        assert 0.98 * bits <= mq.quantize(model_path, avg_bits=bits, **UNSEEN).average_bits <= bits


def test_inspect_shows_the_plan_of_a_size_and_refuses_a_promise(model_path: Path, fails: Fails) -> None:
    shown = mq.inspect(model_path, max_size="20%", data_free=True).plan
    assert shown.sites == mq.quantize(model_path, max_size="20%", data_free=True, verify=False).plan.sites
    assert "--avg-bits" in fails(2, "inspect", model_path, "--min-sqnr", "20")


def no_search(*_: object, **__: object) -> None:
    raise AssertionError("searched, though the accuracy target cannot be judged")


@pytest.mark.parametrize("promise", ["--max-drop=1%", "--min-sqnr=20", "--min-agreement=99%"])
def test_a_promise_without_data_is_refused_before_the_search(
    promise: str, model: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goals, "price_all", no_search)
    assert "--data" in fails(6, model, output, promise)
    data = model.with_name("data.npz")
    np.savez(data, x=weight(32, 64))
    if "drop" in promise:
        assert "needs labels" in fails(6, model, output, promise, "--data", data)
        np.savez(data, x=weight(32, 64), labels=np.zeros(31, np.int64))
        assert "31 labels for 32 rows" in fails(6, model, output, promise, "--data", data)


def test_a_share_of_nothing_is_no_promise(model: Path, output: Path, fails: Fails) -> None:
    data = model.with_name("data.npz")
    rows = weight(32, 64)
    best = onnxruntime.InferenceSession(model).run(None, {"x": rows})[0].argmax(1)
    np.savez(data, x=rows, labels=(best + 1) % 10)
    drop = ["--max-drop", "1%"]
    assert "none of the labels" in fails(6, model, output, *drop, "--data", data)
    zero = ["--metric-command", "true {model}; echo 0", "--no-verify"]
    assert "value is 0" in fails(10, model, output, *drop, *zero)
    assert main([str(model), str(output), *drop, *zero, "--lower-is-better"]) == 0
    assert main([str(model), str(output), "--max-drop", "0", *zero]) == 0


def test_agreement_is_refused_where_the_model_has_no_classes(model: Path, output: Path, fails: Fails) -> None:
    graph = """g (float[N,64] x, float[64,32] w) => (float[N,4,8] y)
    { h = MatMul (x, w) s = Constant <value = int64[3] {-1, 4, 8}> () y = Reshape (h, s) }"""
    onnx.save(text(graph, w=weight(64, 32)), model)
    np.savez(model.with_name("data.npz"), x=weight(32, 64))
    arguments = (model, output, "--min-agreement", "99%", "--data", model.with_name("data.npz"))
    assert "use --min-sqnr" in fails(6, *arguments)


def held_back(path: Path) -> tuple[Array, Array]:
    """Inputs and labels of every fourth batch of four rows: those that quantization must not see."""
    with np.load(path) as data:
        rows = np.arange(len(data["input"])) // 4 % 4 == 3
        return data["input"][rows], data["labels"][rows]


def outputs(model: Path, values: Array) -> Array:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": values})[0])


@pytest.mark.parametrize(
    ("name", "promise"),
    [("cnn", {"max_drop": 0}), ("cnn", {"min_sqnr": 25.0}), ("transformer", {"min_agreement": "98%"})],
)
def test_a_promise_holds_for_the_saved_file_on_data_that_was_held_back(
    name: str, promise: dict[str, Any], labelled: Path, output: Path
) -> None:
    model = CNN.parent.parent / f"digits_{name}" / "model.onnx"
    result, lines = told(model, output, data=labelled, **promise, **QUICK)
    values, labels = held_back(labelled)
    wanted, got = outputs(model, values), outputs(output, values)
    measured = {
        "max_drop": np.mean(got.argmax(1) == labels) - np.mean(wanted.argmax(1) == labels),
        "min_agreement": np.mean(got.argmax(1) == wanted.argmax(1)) - 0.98,
        "min_sqnr": decibels(wanted, got) - 25.0,
    }
    assert measured[next(iter(promise))] >= 0
    assert any(line.endswith(": kept") for line in lines) and any(line.endswith(": not kept") for line in lines)
    assert result.verification and result.verification.samples == len(values) == 24


def tries(lines: list[str]) -> list[tuple[float, int, float, bool]]:
    """(bits, bytes, figure, kept) of each line about a try."""
    pattern = (
        r"([0-9.]+) bits a weight(?: \(\d+ weights float\))?, cost weight-error: "
        r"(\d+) bytes, value ([-0-9.e+]+): (kept|not kept)"
    )
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    return [(float(m[1]), int(m[2]), float(m[3]), m[4] == "kept") for m in found if m]


@pytest.mark.parametrize(
    "share", [pytest.param(0.1, marks=pytest.mark.slow), 0.14, pytest.param(0.22, marks=pytest.mark.slow), 0.7]
)
def test_the_smallest_file_that_keeps_the_promise_is_written_and_each_try_is_told(
    share: float, model_path: Path, output: Path
) -> None:
    result, lines = told(model_path, output, metric=SIZE, max_drop=1 - share, **UNSEEN)
    least, before = share * size_of(model_path), size_of(model_path)
    assert re.fullmatch(rf"float: {before} bytes, value [0-9.e+]+", lines[0])
    for bits, nbytes, figure, kept in tries(lines[1:]):
        assert 2 <= bits < 32 and figure == pytest.approx(nbytes, rel=1e-4) and kept == (nbytes >= least)
    assert size_of(output) == min(nbytes for _, nbytes, _, kept in tries(lines[1:]) if kept) == result.nbytes_after
    assert 3 <= len(lines) <= 12
    assert size_of(output) <= (1.06 * least if share > 0.11 else 0.12 * before)
    assert bool(float_tensors(onnx.load(output), 1000) - {"positions"}) == (share > 0.3)


@pytest.mark.usefixtures("stored_at_a_loss")
def test_of_the_files_that_keep_the_promise_the_smallest_is_written_though_it_has_more_bits(
    model: Path, output: Path
) -> None:
    """Nodes that unpack odd widths take more bytes here than the codes do."""
    _, lines = told(model, output, metric=lambda path: float(size_of(path) > 4000), max_drop=0, verify=False)
    sizes = [nbytes for _, nbytes, _, kept in tries(lines[1:]) if kept]
    assert sizes[-1] > min(sizes) == size_of(output)


def test_a_figure_of_which_less_is_better_is_kept_low(tmp_path: Path, output: Path) -> None:
    command = "echo $((1000000 - $(wc -c < {model})))"
    _, lines = told(CNN, output, metric=command, max_drop="14%", lower_is_better=True, **UNSEEN)
    most = 1.14 * (1000000 - size_of(CNN))
    assert all(kept == (figure <= most) for _, _, figure, kept in tries(lines[1:]))
    assert len({kept for *_, kept in tries(lines[1:])}) == 2


def test_a_promise_nobody_can_keep_is_told_and_nothing_is_written(
    model: Path, output: Path, labelled: Path, fails: Fails
) -> None:
    output.write_bytes(b"\x08precious")
    same = f"cmp -s {{model}} {model} && echo 1 || echo 0"
    line = fails(9, model, output, "--metric-command", same, "--max-drop", "1%", "--no-verify")
    assert "no plan reaches the accuracy target" in line and "value 0" in line
    np.savez(labelled, x=weight(32, 64))
    assert " dB" in fails(9, model, output, "--min-sqnr", 300, "--data", labelled, "--cost", "energy")
    assert output.read_bytes() == b"\x08precious"


def test_a_promise_may_be_kept_in_place_and_leaves_data_files_of_others_alone(tmp_path: Path) -> None:
    source, data = tmp_path / "in.onnx", tmp_path / "out.onnx.data"
    onnx.save(classifier(), source, save_as_external_data=True, location=data.name, size_threshold=16)
    before = data.read_bytes()
    options: dict[str, Any] = {"metric": "echo 1 {model} | cut -c1", "max_drop": 0.1}
    files = mq.quantize(source, tmp_path / "out.onnx", **options).files
    assert data.read_bytes() == before and len(files) == 2 and onnx.load(source).graph.initializer
    placed = mq.quantize(source, source, **options).files
    assert set(files_under(tmp_path)) == {*files, *placed, data}
    onnx.checker.check_model(str(source))
