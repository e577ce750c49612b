"""What pages and figures tell of weights, from summaries alone."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console
from test_html_report import rows_of
from test_report import tensor

from mixquant_onnx.errors import counted
from mixquant_onnx.report.figures.compare import inner_values
from mixquant_onnx.report.figures.run import errors, layers
from mixquant_onnx.report.figures.style import named_axis
from mixquant_onnx.report.html.run import run_page
from mixquant_onnx.report.sections.comparison import ComparisonData
from mixquant_onnx.report.sections.weights import ON_PURPOSE, TensorData, weights_table
from mixquant_onnx.report.summary import Summary

pytest.importorskip("altair")


def written(name: str, qe: float, planned: float) -> TensorData:
    """A weight of a run, whose error is `planned` where it is rounded by itself."""
    made = tensor(name, 20.0, qe)
    return {**made, "form": "folded", "qe_by_bits": {"4": planned, "8": planned / 100}}


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the library, which takes seconds to put together."""
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: "")


def summary(*tensors: TensorData, **further: Any) -> Summary:
    made = {
        "format": 1, "versions": {"onnxruntime": "1"}, "graph": "g", "goal": None, "options": {},
        "settings": {"qem": 1.0}, "nbytes_before": 1000,
        "weights": 64, "average_bits": 4.0, "bits": {"4": len(tensors)}, "tensors": list(tensors), "skipped": [],
        "left_float": {"nbytes": 10, "share": 0.01}, "notes": [], "nbytes_after": 300,
    }  # fmt: skip
    return cast(Summary, {**made, **further})


def page(made: Summary) -> str:
    """The page without the library."""
    return re.sub(r"<script>.*?</script>", "", run_page(made, "m", ""), count=1, flags=re.DOTALL)


def rows_under(title: str, made: Summary) -> list[list[str]]:
    """The cells of a table of the page, its head first."""
    table = page(made).split(f"<h2>{title}</h2>")[1].split("</table>")[0]
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]


def test_the_error_as_written_is_a_mark_of_its_own() -> None:
    chart = errors(summary(written("w", 3e-3, 1e-5)))
    assert chart is not None
    drawn = chart.to_dict()
    rows = [row for layer in drawn["layer"][1:3] for row in rows_of(drawn, layer) if row["bits"] == 4]
    assert [(row["what"], row["qe"]) for row in rows] == [("rounded by itself", 1e-5), ("as written", 3e-3)]
    shapes = [layer["encoding"]["shape"]["scale"]["range"] for layer in drawn["layer"][1:3]]
    assert shapes == [["circle", "diamond"]] * 2


def test_a_plan_has_no_mark_as_written() -> None:
    chart = errors(summary(tensor("w", 20.0, 1e-5)))
    assert chart is not None
    drawn = chart.to_dict()
    assert {row.get("what") for layer in drawn["layer"] for row in rows_of(drawn, layer)} == {
        "rounded by itself", "plain int8"
    }  # fmt: skip


@pytest.mark.parametrize(("qe", "told"), [(3e-3, True), (1.9e-5, False)])
def test_errors_that_calibration_made_on_purpose_are_told(qe: float, told: bool) -> None:
    tensors, text = [written("w", qe, 1e-5), written("v", 1e-5, 1e-5)], StringIO()
    Console(file=text, width=80).print(weights_table(tensors, 80))
    assert (ON_PURPOSE[:20] in text.getvalue()) == told
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert (ON_PURPOSE in page(summary(*tensors)).split("<h2>All weights</h2>")[1]) == told


def test_the_table_tells_why_a_weight_has_its_bits() -> None:
    told = summary(written("w", 3e-3, 1e-5), sensitivity={"cost": "layer-output", "shares": {"w": 0.25}})
    head, row = rows_under("All weights", told)
    assert head == ["weight", "shape", "scheme", "bytes", "QE", "/ int8", "SQNR", "share of the loss", "form"]
    assert row[5:] == ["3.00", "20.0 dB", "25.0%", "folded"]
    head, row = rows_under("All weights", summary(tensor("w", 20.0, 1e-5)))
    assert head[-1] == "SQNR" and row[5] == "0.01"


def test_bars_have_names_where_there_is_room() -> None:
    names = [f"encoder.layers.{k}.attention.output.dense.weight" for k in range(30)]
    chart = layers(summary(*[tensor(name, 20.0, 1e-5) for name in names]))
    assert chart is not None
    label = chart.to_dict()["encoding"]["x"]["axis"]["labelExpr"]
    assert "\\u2026" in label and "layers.29\\u2026weight" in label and label.endswith("[datum.value]")
    assert named_axis([*names, "one more"]).to_dict()["labels"] is False


@pytest.mark.parametrize(("count", "text"), [(0, "0 tensors"), (1, "1 tensor"), (2, "2 tensors")])
def test_one_thing_is_told_as_one(count: int, text: str) -> None:
    assert counted(count, "tensor") == text


def test_the_quality_is_told_once() -> None:
    accuracy = {"agreement": None, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "top1_agreement": None}
    quality = {"profile": "deployed", "sqnr_db": 14.7, "mean_sqnr_db": 14.7, "cosine": 0.9, "outputs": [],
               "tokens": None, **accuracy}  # fmt: skip
    found = {
        "codes": 1, "decoder": "", "oracle_sqnr_db": "inf", "samples": 4, "synthetic": False, "origin": "user",
        "data": "rows", "in_sample": False, "optimism_db": None, "float_accuracy": 0.6, "warnings": [],
        "float_accuracy_interval": [0.5, 0.7], "quality": [quality],
    }  # fmt: skip
    told = summary(written("w", 3e-3, 1e-5), verification=found)
    cards = page(told).split('<div class="cards">')[1].split("<h2>")[0]
    assert "<b>14.7 dB</b><span>accuracy 50.00% (float 60.00%)</span>" in cards and cards.count("14.7 dB") == 1
    assert rows_under("Verification", told)[1] == ["deployed", "14.7 dB", "accuracy 50.00% (float 60.00%)"]
    assert "Codes of 1 weight decode" in page(told)


@pytest.mark.parametrize(
    ("options", "goal", "name", "values"),
    [
        ({"min_agreement": "95%"}, "min-agreement 95%", "agreement", ["90.00%", "96.00%"]),
        ({"min_sqnr": 0.95}, "min-sqnr 0.95", "SQNR", ["0.9 dB", "1.0 dB"]),
        ({"max_drop": "1%"}, "max-drop 1%", "value", ["90.00%", "96.00%"]),
        ({"max_drop": "1%", "metric": "score"}, "max-drop 1%", "metric", ["0.9", "0.96"]),
    ],
)
def test_goal_and_trials_are_told(options: dict[str, Any], goal: str, name: str, values: list[str]) -> None:
    trials = [{"bits": 3.0, "nbytes": 200, "value": 0.9, "kept": False},
              {"bits": 4.0, "nbytes": 300, "value": 0.96, "kept": True}]  # fmt: skip
    told = summary(written("w", 3e-3, 1e-5), goal=goal, options=options, trials=trials)
    first = page(told).split('<div class="card">')[1]
    assert f"<span>goal</span><b>{goal}</b><span>met by 1 of 2 trials</span>" in first
    head, *rows = rows_under("Trials", told)
    assert head == ["trial", "bits a weight", "size", name, "goal met"]
    assert [row[3:] for row in rows] == [[values[0], "no"], [values[1], "yes"]] and rows[1][:3] == [
        "2",
        "4.00",
        "0.3 kB",
    ]
    assert [key for key, _, what in rows_under("Versions and options", told)[1:] if what == "given"] == list(options)


def test_options_are_told_once_and_no_goal_is_no_card() -> None:
    told = summary(written("w", 3e-3, 1e-5), options={"qem": 1.0, "bits": "2-8"})
    rows = rows_under("Versions and options", told)[1:]
    assert rows == [["onnxruntime", "1", "version"], ["qem", "1.0", "given"], ["bits", "2-8", "given"]]
    assert "<span>goal</span>" not in page(told) and "<h2>Trials</h2>" not in page(told)


def test_values_of_a_comparison_have_names_and_those_that_are_exact_no_bar() -> None:
    layers = [
        {"name": f"/v{k}", "op": "Add", "sqnr_db": sqnr, "cosine": 1.0} for k, sqnr in enumerate(["inf", 30.0, 9.0])
    ]
    chart = inner_values(cast(ComparisonData, {"layers": layers}))
    assert chart is not None
    drawn = chart.to_dict()
    assert drawn["layer"][0]["encoding"]["x"]["axis"]["labelExpr"] == '["/v1", "/v2"][datum.value]'
    assert [(row["sqnr"], row["near"]) for row in rows_of(drawn, drawn["layer"][0])] == [(30.0, True), (9.0, False)]
