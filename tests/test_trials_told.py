"""What is told of trials for an accuracy target: on the screen, in notes and in the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Fails
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.given import given_values, goal_text
from mixquant_onnx.config.stages import AccuracyOptions, BudgetOptions
from mixquant_onnx.verification.statistics import wilson
from mixquant_onnx.verification.warnings import advice_of, on_integers

CNN = ROOT / "models" / "digits_cnn" / "model.onnx"
FAST = ["--method", "mse", "--effort", "fast", "--cost", "weight-error"]


@pytest.mark.parametrize("target", ["--min-agreement=98%", "--max-drop=2%"])
def test_trials_are_told_as_they_are(
    target: str, labelled: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "s.json"
    assert (
        main([str(CNN), str(output), target, "--data", str(labelled), "--json", str(summary), *FAST, "--bits=2,4,8"])
        == 0
    )
    found, lines = json.loads(summary.read_text()), capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line.endswith("kept")]
    assert len(lines) == len(found["trials"]) > 1 and {one["kept"] for one in found["trials"]} == {True, False}
    pattern = r"([0-9.]+) bits a weight, cost weight-error: (\d+) bytes, \w+ ([0-9.]+)%, (\d+) of 24 \((.*)-(.*) %\)"
    for line, trial in zip(lines, found["trials"], strict=True):
        told = re.match(pattern, line)
        assert told and line.endswith(": kept") == trial["kept"]
        assert float(told[1]) == pytest.approx(trial["bits"], abs=0.005) and int(told[2]) == trial["nbytes"]
        assert int(told[4]) == round(24 * trial["value"])
        low, high = wilson(trial["value"], 24)
        assert (told[5], told[6]) == (f"{100 * low:.1f}", f"{100 * high:.1f}")
    best = min((one for one in found["trials"] if one["kept"]), key=lambda one: one["nbytes"])
    assert (best["nbytes"], best["bits"]) == (found["nbytes_after"], found["average_bits"]) and best["bits"] < 8
    (note,) = [note for note in found["notes"] if "optimistic" in note]
    assert f"among {len(lines)} trials on these 24 rows" in note and f"{round(24 * best['value'])} of 24" in note


def test_the_summary_has_the_options_and_the_goal(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text('bits = [4, 8]\nmin-size = 300\ndata = "rows.npz"\nsymmetric = true\n')
    path = tmp_path / "s.json"
    given = ["--config", str(tmp_path / "o.toml"), "--avg-bits", "5.5", "--json", str(path), "--exclude", "stage5.*"]
    assert main(["inspect", str(CNN), *given, *FAST]) == 0
    found = json.loads(path.read_text())
    assert found["goal"] == "avg-bits 5.5" and "trials" not in found
    assert found["options"] == {
        "avg_bits": 5.5, "bits": [4, 8], "method": "mse", "effort": "fast", "cost": "weight-error", "min_size": 300,
        "data": str(labelled), "symmetric": True, "exclude": ["stage5.*"],
    }  # fmt: skip
    assert main(["inspect", str(CNN), "--data-free", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert (found["goal"], found["options"]) == (None, {"data_free": True})


def test_options_that_json_has_no_value_for_are_named() -> None:
    given: dict[str, Any] = {"data": {"x": np.zeros(3)}, "metric": wilson, "resume": Path("a"), "max_drop": "1%"}
    assert given_values(given) == {"data": "in memory", "metric": "wilson", "resume": "a", "max_drop": "1%"}
    assert goal_text(given) == "max-drop 1%" and goal_text({"scope": "model"}) is None


def test_widths_that_stand_in_the_way_are_named(labelled: Path, output: Path, fails: Fails) -> None:
    target = ["--min-sqnr", "40", "--data", labelled, *FAST]
    assert "all quantized weights had 3 bits, the most that --bits allows" in fails(
        9, CNN, output, *target, "--bits=2-3"
    )
    assert "--bits" not in fails(9, CNN, output, *target[2:], "--min-sqnr", "300")


def test_one_trial_is_no_choice(labelled: Path) -> None:
    options: dict[str, Any] = {"metric": lambda _: 1.0, "max_drop": 0, "bits": 8, "data_free": True, "method": "mse"}
    result = mq.quantize(CNN, **options)
    assert len(result.trials) == 1 and not any("optimistic" in note for note in result.notes)
    options["bits"] = (2, 4, 8)
    result = mq.quantize(CNN, **options)
    count = len(result.trials)
    assert count > 1 and f"value 1: the file was chosen among {count} trials by this metric" in " ".join(result.notes)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"qem": 1e5}, "allow more bits (a lower --qem, --bits 8)"),
        ({"avg_bits": 2.1}, "allow more bits (--avg-bits above 2.1)"),
        ({"max_size": "10.5%"}, "allow a larger file (--max-size above 10.5%)"),
        ({"min_agreement": "60%"}, "set a stricter target (--min-agreement above 0.6, or --min-sqnr)"),
        ({"max_drop": "40%"}, "set a stricter target (--max-drop below 0.4)"),
        ({"min_sqnr": 1}, "set a stricter target (--min-sqnr above 1)"),
    ],
)
def test_warnings_advise_what_fits_the_goal(
    options: dict[str, Any], advice: str, labelled: Path, tmp_path: Path
) -> None:
    fast: dict[str, Any] = {
        "method": "minmax",
        "effort": "fast",
        "cost": "weight-error",
        "data": labelled,
        "granularity": "tensor",
    }
    result = mq.quantize(CNN, tmp_path / "o.onnx", rounding="nearest", rule="paper", **fast, **options)
    assert result.verification is not None
    (warning,) = result.verification.warnings
    assert warning.endswith(f"; {advice}")
    if "avg_bits" in options:
        again = mq.apply_plan(CNN, result.plan, data=labelled, rounding="nearest").verification
        assert again is not None and again.warnings[0].endswith("; give weights more bits in the plan")


def test_layers_on_integers_get_other_advice() -> None:
    stricter = advice_of(BudgetOptions(), AccuracyOptions(min_sqnr=20.0))
    assert on_integers(stricter) == "set a stricter target (--min-sqnr above 20), or leave --activations out"
    bits = advice_of(BudgetOptions(avg_bits=4.0), AccuracyOptions())
    assert "float (the goal --min-sqnr 25), or leave --activations out" in on_integers(bits)
