"""Lines of the report that few runs have, from data as the summary holds it."""

from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mixquant_onnx.cli.main import main
from mixquant_onnx.errors import counted
from mixquant_onnx.report.brief import one_line
from mixquant_onnx.report.formats import shortened, sizes
from mixquant_onnx.report.quality_text import print_parts, profiles
from mixquant_onnx.report.sections import integers, weights
from mixquant_onnx.report.sections.timing import timing_data
from mixquant_onnx.report.sections.verification import title
from mixquant_onnx.verification.latency import Latency


def _printed(*things: Any) -> str:
    made = StringIO()
    console = Console(file=made, width=120)
    for thing in things:
        console.print(thing)
    return made.getvalue()


def _part(**changed: Any) -> dict[str, Any]:
    part: dict[str, Any] = {
        "slices": "", "sqnr_db": 30.0, "largest_change": 0.25, "peak": 12345.6, "scores_over_half": None,
    }  # fmt: skip
    return {**part, **changed}


def _output(*parts: dict[str, Any], **changed: Any) -> dict[str, Any]:
    output: dict[str, Any] = {
        "name": "y", "changed_shapes": 0, "feeds": 3, "nan": 0, "decisions": None, "agreement": None,
        "parts": list(parts),
    }  # fmt: skip
    return {**output, **changed}


def _quality(**changed: Any) -> dict[str, Any]:
    quality: dict[str, Any] = {
        "profile": "exact", "sqnr_db": 30.0, "mean_sqnr_db": 30.0, "cosine": None, "agreement": None,
        "accuracy": None, "accuracy_interval": None, "outputs": [],
    }  # fmt: skip
    return {**quality, **changed}


def _table(quality: dict[str, Any], exact: float | None = None) -> list[list[str]]:
    """The cells of the heading and of the row."""
    lines = [line.split("  ") for line in _printed(profiles([quality], exact)).splitlines() if line.strip(" ─")]  # type: ignore[list-item]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


def test_the_mean_is_shown_beside_the_worst_where_they_differ() -> None:
    assert _table(_quality()) == [["profile", "SQNR", "cosine", "agreement (95 %)"], ["exact", "30.0 dB", "-", "-"]]
    heading, row = _table(_quality(sqnr_db=12.0))
    assert heading[:3] == ["profile", "worst SQNR", "mean"] and row[:3] == ["exact", "12.0 dB", "30.0 dB"]


def test_an_agreement_of_few_rows_is_a_count() -> None:
    share = {"share": None, "hits": 4, "count": 5, "interval": [0.0, 1.0]}
    assert _table(_quality(agreement=share))[1][-1] == "4 of 5"
    assert _table(_quality(agreement={**share, "count": 0}))[1][-1] == "-"
    assert _table(_quality(agreement={**share, "share": 0.8, "interval": [0.28, 0.995]}))[1][-1] == "80.00% (28.0-99.5)"


def test_an_accuracy_that_could_not_be_measured_is_a_dash() -> None:
    heading, row = _table(_quality(), 0.9125)
    assert heading[-1] == "accuracy (float 91.25%)" and row[-1] == "-"
    assert _table(_quality(accuracy=0.5, accuracy_interval=[0.25, 0.75]), 0.9)[1][-1] == "50.00% (25.0-75.0)"


@pytest.mark.parametrize(("key", "shown"), [("nan", "NaN"), ("changed_shapes", "shapes differ")])
def test_outputs_that_are_no_numbers_have_no_sqnr(key: str, shown: str) -> None:
    assert _table(_quality(outputs=[_output(**{key: 1})]))[1][1] == shown


def _parts(*outputs: dict[str, Any]) -> list[str]:
    made = StringIO()
    print_parts(outputs, Console(file=made, width=120))  # type: ignore[arg-type]
    return [line.strip() for line in made.getvalue().splitlines()]


def test_one_part_alone_needs_no_line() -> None:
    assert _parts(_output(_part())) == []


def test_scores_that_cross_the_threshold_are_counted() -> None:
    some = _part(scores_over_half={"share": 0.9, "hits": 9, "count": 10, "interval": [0, 1]})
    none = _part(scores_over_half={"share": None, "hits": 0, "count": 0, "interval": [0, 1]}, largest_change=None)
    assert _parts(_output(some, none)) == [
        "y: 30.0 dB, largest change 0.25 of values up to 12346, 1 of 10 scores above 0.5 changed",
        "y: 30.0 dB, none above 0.5",
    ]


def test_labels_are_told_by_how_many_are_equal() -> None:
    share = {"share": None, "hits": 4, "count": 5, "interval": [0.0, 1.0]}
    assert _parts(_output(decisions="values", agreement=share)) == ["y: 4 of 5 values are equal"]
    assert _parts(_output(_part(), _part(), changed_shapes=2)) == ["y: shape differs for 2 of 3 inputs"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "on 8-bit integers: 2 of 3 weights, ranges by mse"),
        ({"ranges": "dynamic"}, "on 8-bit integers: 2 of 3 weights, ranges of each run"),
        ({"balance": 0.5}, "ranges by mse, channels equalized (0.5)"),
        ({"in_float": ["a", "b"]}, "ranges by mse, 2 kept in float for accuracy (--no-guard to round all)"),
        ({"overflowing": ["a"]}, "1 of them are right on processors with VNNI alone"),
    ],
)
def test_what_runs_on_integers_is_told(changed: dict[str, Any], told: str) -> None:
    plain = {"layers": 2, "weights": 3, "ranges": "mse", "balance": 0.0, "in_float": [], "overflowing": None}
    made = StringIO()
    integers.render(Console(file=made, width=300), {"integers": {**plain, **changed}})  # type: ignore[typeddict-item]
    assert told in made.getvalue()


def test_one_row_is_no_rows() -> None:
    found: dict[str, Any] = {"samples": 1, "data": "rows of calib.npz", "origin": "user", "in_sample": False}
    assert title({**found}) == "against the float model, 1 row of calib.npz"  # type: ignore[typeddict-item]
    assert title({**found, "samples": 2}) == "against the float model, 2 rows of calib.npz"  # type: ignore[typeddict-item]


def test_an_inspection_has_one_size_in_its_line() -> None:
    summary: dict[str, Any] = {"nbytes_before": 20_000, "average_bits": 4.5, "bits": {"4": 1, "5": 1}}
    assert one_line({**summary}) == "20.0 kB, 4.50 bits a weight (1 at 4, 1 at 5)"  # type: ignore[typeddict-item]
    whole = one_line({**summary, "nbytes_after": 5_000})  # type: ignore[typeddict-item]
    assert whole == "20.0 kB -> 5.0 kB (25.0%), 4.50 bits a weight (1 at 4, 1 at 5)"


def test_names_that_cannot_be_told_apart_are_cut_alike() -> None:
    assert shortened(["aaaaaaaa", "aabaaaaa"], 3) == ["a…a", "a…a"]
    assert len(set(shortened(["left.weight", "left.weighs"], 6))) == 2


def test_a_tensor_whose_baseline_is_exact_has_no_ratio() -> None:
    tensor: Any = {
        "name": "w", "shape": [8, 4], "scheme": "w4.channel.mse", "bits": 4, "nbytes": 16, "qe": 2.0, "sqnr_db": "inf",
    }  # fmt: skip
    for baseline, ratio in ((0.0, "-"), (4.0, "0.50"), (1e-6, "2000000")):
        tensor["baseline_qe"] = baseline
        assert weights.ratio_text(tensor) == ratio
    assert weights._sqnr(1.0, 0.0) == math.inf and weights._sqnr(0.0, 1.0) == -math.inf
    assert weights._sqnr(1.0, 1e-320) == pytest.approx(3200, abs=1)


def test_times_without_memory() -> None:
    found = timing_data([Latency(threads=1, float_ms=2.0, written_ms=1.0)], None)
    assert found == {"latency": [{"threads": 1, "float_ms": 2.0, "written_ms": 1.0}], "memory": None}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (240_000, 65_600, ("240.0 kB", "65.6 kB")), (65_600, 240_000, ("65.6 kB", "240.0 kB")),
        (640_000, 170_000, ("0.64 MB", "0.17 MB")), (90_000, 5_000, ("90.0 kB", "5.0 kB")),
        (2_000_000, 65_600, ("2.00 MB", "0.07 MB")), (2_000_000, 9_000, ("2.00 MB", "9.0 kB")),
    ],
)  # fmt: skip
def test_two_sizes_are_in_one_unit(before: int, after: int, told: tuple[str, str]) -> None:
    assert sizes(before, after) == told


def test_one_of_a_kind_is_told_in_the_singular(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert counted(1, "weight is", "weights are") == "1 weight is" and counted(0, "layer") == "0 layers"
    output = str(model.with_name("o.onnx"))
    for option in ((), ("-v",)):
        assert main([str(model), output, "--exclude", "w", *option]) == 0
        out = capsys.readouterr().out
        assert "codes of 1 tensor decodes exactly" in out and "1 weight tensor, worst" in out
        assert not re.search(r"\b1 (weights|tensors|layers|weight tensors)\b", out)
