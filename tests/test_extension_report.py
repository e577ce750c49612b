"""A section of the report is one file and one row of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mixquant_onnx.cli.main import main
from mixquant_onnx.report import sections
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.summary import PlanSummary, Summary

RUN_ONLY = set(Summary.__annotations__) - set(PlanSummary.__annotations__) - {
    "blocks", "integers", "latency", "memory", "sensitivity", "trials", "weights_in_memory",
}  # fmt: skip


class Widest:
    """A section in place of a module: the widths that are in use."""

    def data(self, run: Run, /) -> Mapping[str, Any] | None:
        """Nothing for a plan alone."""
        return None if run.result is None else {"widths": sorted({s.bits for s in run.plan.sites.values()})}

    def render(self, console: Console, data: Any, /) -> None:
        console.print(f"widths: {data['widths']}", markup=False)


def summary_of(*arguments: str | Path, to: Path) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json", str(to)]) == 0
    found: dict[str, Any] = json.loads(to.read_text())
    return found


def test_a_section_of_the_table_is_in_the_terminal_and_in_the_summary(
    model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = summary_of(model, output, "--bits", "4", "--no-verify", to=tmp_path / "run.json")
    assert "widths" not in plain and "widths" not in capsys.readouterr().out
    position = sections.SECTIONS.index(sections.size)
    table = (*sections.SECTIONS[:position], Widest(), *sections.SECTIONS[position:])
    monkeypatch.setattr(sections, "SECTIONS", table)
    summary = summary_of(model, output, "--bits", "4", "--no-verify", "-v", to=tmp_path / "run.json")
    assert summary == {**plain, "widths": [4]} and list(summary) == [*plain, "widths"]
    printed = capsys.readouterr().out
    assert printed.index("left as float:") < printed.index("widths: [4]") < printed.index("size:")
    assert "widths" not in summary_of("inspect", model, to=tmp_path / "plan.json")
    assert "widths" not in capsys.readouterr().out


def test_the_summary_has_the_keys_of_its_schema_in_order(model: Path, output: Path, tmp_path: Path) -> None:
    plan = summary_of("inspect", model, to=tmp_path / "plan.json")
    assert list(plan) == [*PlanSummary.__annotations__, "sensitivity"]
    with_blocks = summary_of("inspect", model, "--blocks", to=tmp_path / "plan.json")
    assert list(with_blocks) == [*PlanSummary.__annotations__, "sensitivity", "blocks"]
    run = summary_of(model, output, "--data-free", to=tmp_path / "run.json")
    assert list(run) == [
        key
        for key in Summary.__annotations__
        if key not in ("blocks", "integers", "latency", "memory", "trials", "weights_in_memory")
    ]
    assert set(run) - set(plan) == RUN_ONLY and run["verification"]["codes"] == len(run["tensors"])
    assert summary_of(model, output, "--no-verify", to=tmp_path / "run.json")["verification"] is None


def test_a_section_of_sweeps_is_shown(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(console: Console, data: Any) -> None:
        console.print(f"smallest: {data['smallest']}")

    smallest = SimpleNamespace(data=lambda sweep: {"smallest": sweep.points[0].setting}, render=render)
    monkeypatch.setattr(sections, "SWEEP_SECTIONS", (*sections.SWEEP_SECTIONS, smallest))
    assert main(["sweep", str(model), "--avg-bits", "4,6", "--no-verify", "--json", str(tmp_path / "p.json")]) == 0
    printed = capsys.readouterr().out
    points = json.loads((tmp_path / "p.json").read_text())["points"]
    assert {point["setting"] for point in points} == {"avg-bits 4", "avg-bits 6"}
    assert printed.index("no other plan") < printed.index(f"smallest: {points[0]['setting']}")
