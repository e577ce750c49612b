"""Options: one field each, from which the command line, the keywords and the page of docs/ are made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

import mixquant_onnx as mq
from mixquant_onnx.cli.parser import Parser, add_options, keywords_in
from mixquant_onnx.config import config
from mixquant_onnx.config.checks import CheckOptions
from mixquant_onnx.config.config import all_options, config_of
from mixquant_onnx.config.option import option
from mixquant_onnx.config.parsing import number


@dataclass(frozen=True, kw_only=True, slots=True)
class MoreChecks(CheckOptions):
    """With one option more."""

    patience: int = option(
        3, "turns to wait", accepts="int", metavar="N", convert=number("--patience", 0, 9, "0 to 9", whole=True)
    )


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stages = {**config.STAGES, "checks": ("Checks", MoreChecks)}
    for module in (config, sys.modules["mixquant_onnx.cli.parser"]):
        monkeypatch.setattr(module, "STAGES", stages)
    yield


@pytest.mark.usefixtures("patience")
def test_an_option_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="p")
    add_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help-all"])
    told = capsys.readouterr().out
    assert "--patience N" in told and "turns to wait (default 3)" in told
    given = keywords_in(parser.parse_args(["--patience", "5"]))
    made = config_of(**given).checks
    assert isinstance(made, MoreChecks) and made.patience == 5 and config_of().checks != made
    with pytest.raises(mq.OptionError, match="--patience 10 is out of range; it takes 0 to 9"):
        config_of(patience=10)


def test_every_option_has_a_flag_of_its_own() -> None:
    flags = [one.flag for one in all_options()]
    assert len(set(flags)) == len(flags) > 30


def test_defaults_are_those_that_are_shown() -> None:
    made = config_of()
    assert config_of(bits="2-8", granularity="channel", min_ort="1.25") == made
    assert made.search.bits == (2, 3, 4, 5, 6, 7, 8) and made.budget.qem == 2


WRONG = {
    'mq.quantize("a.onnx", qem="two")': '"qem"',
    'mq.quantize("a.onnx", granularty="channel")': '"granularty"',
    'mq.inspect("a.onnx", rounding="up")': '"rounding"',
    'mq.sweep("a.onnx", qems=["1"])': "List item 0",
    'mq.apply_plan("a.onnx", 3)': '"apply_plan"',
}
RIGHT = ('mq.quantize("a.onnx", qem=2, bits=[4, 8], data={"x": [1.0]})', 'mq.sweep("a.onnx", qems=[1], verify=False)')


def test_wrong_calls_fail_strict_typing_and_right_ones_do_not(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="mypy reads the types of torch")
    file = tmp_path / "user.py"
    file.write_text("\n".join(["import mixquant_onnx as mq", *WRONG, *RIGHT, ""]))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == len(WRONG), done.stdout
    for place, (told, line) in enumerate(zip(WRONG.values(), errors, strict=True), start=2):
        assert f":{place}:" in line and told in line
