"""--help: what most people need, with examples; --help-all: everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixquant_onnx.cli.main import main
from mixquant_onnx.cli.parser import COMMON
from mixquant_onnx.config.config import all_options

GOALS = ("max_drop", "min_sqnr", "min_agreement", "max_kl")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["quantize", "inspect", "sweep"])
def test_help_shows_the_common_options_and_help_all_every_one(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short, long = (shown(capsys, command, flag) for flag in ("--help", "--help-all"))
    flags = {one.keyword: one.flag for one in all_options()}
    for keyword, flag in flags.items():
        known = command != "inspect" or keyword not in ("benchmark", *GOALS)
        assert (f"{flag} " in long.replace("\n", " ") or f"{flag}\n" in long) == known, flag
        assert (f"  {flag}" in short) == (known and keyword in COMMON), flag
    assert len(COMMON) == 12 and "example" in short


@pytest.mark.parametrize("command", ["compare", "diff"])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"example:\n  mixquant-onnx {command} " in shown(capsys, command, "--help")


@pytest.mark.parametrize(
    ("given", "told"),
    [("--benchmark", "unrecognized arguments: --benchmark"), *((g, "is found by runs") for g in (
        "--max-drop=1%", "--min-sqnr=20", "--min-agreement=99%"))],
)  # fmt: skip
def test_inspect_refuses_what_takes_a_run(
    given: str, told: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(model), given]) == 2
    assert told in capsys.readouterr().err


def test_hidden_options_still_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.onnx", "out.onnx", "--effort", "none"]) == 2
    assert "--effort" in capsys.readouterr().err
