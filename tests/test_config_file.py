"""Options from mixquant.toml or pyproject.toml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from cases import text, weight

import mixquant_onnx as mq
from mixquant_onnx.cli import sweep
from mixquant_onnx.cli.main import main
from mixquant_onnx.cli.parser import Parser, add_options, keywords_in
from mixquant_onnx.config.file import file_of_options, options_of_file


def found_options() -> dict[str, Any]:
    found = file_of_options(None)
    return {} if found is None else options_of_file(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_those_of_the_options(folder: Path) -> None:
    (folder / "mixquant.toml").write_text(
        'avg-bits = 4.5\nbits = [4, 8]\nmin_size = 100\nexclude = ["head.*"]\nsymmetric = true\nverify = false\n'
        'data = "rows.npz"\nfor = "size"\n'
    )
    assert found_options() == {
        "avg_bits": 4.5, "bits": [4, 8], "min_size": 100, "exclude": ["head.*"], "symmetric": True, "verify": False,
        "data": "rows.npz", "optimize_for": "size",
    }  # fmt: skip


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "options.toml").write_text('data = "rows.npz"\ntable = "/t"\n')
    found = options_of_file(Path("sub/options.toml"))
    assert found == {"data": str(Path("sub/rows.npz")), "table": "/t"}


def test_pyproject_is_read_where_it_has_options(folder: Path) -> None:
    assert found_options() == {}
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert found_options() == {}
    (folder / "pyproject.toml").write_text("[tool.mixquant]\nqem = 4\n")
    assert found_options() == {"qem": 4}
    (folder / "mixquant.toml").write_text("qem = 8\n")
    assert found_options() == {"qem": 8}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("qemm = 2", "'qemm' is no option"), ("qem = [", "cannot be read"), ("verify = 1", "takes true or false"),
        ("qem = true", "takes a value"), ("qem = two", r"column 7\); strings need quotes"),
        ("[qem]\nx = 1", "takes a value"),
    ],
)  # fmt: skip
def test_errors_name_the_file(content: str, says: str, folder: Path) -> None:
    (folder / "mixquant.toml").write_text(content)
    with pytest.raises(mq.OptionError, match=says) as raised:
        found_options()
    assert "mixquant.toml" in str(raised.value)


def test_the_command_line_wins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(text("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul (x, w) }", w=weight(64, 64)),
              folder / "m.onnx")  # fmt: skip
    (folder / "mixquant.toml").write_text('bits = 4\nmethod = "mse"\n')
    for given, bits in (([], 4), (["--bits", "8"], 8)):
        assert main(["m.onnx", "o.onnx", "--data-free", "--plan", "p.json", *given]) == 0
        assert f'"w{bits}.channel.mse"' in (folder / "p.json").read_text()
    assert "mixquant-onnx: options from mixquant.toml" in capsys.readouterr().err
    assert main(["m.onnx", "o.onnx", "--config", "none.toml"]) == 2
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_a_command_runs_only_from_a_file_that_was_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mixquant.toml").write_text('metric-command = "cp {model} ran; echo 1"\nmax-drop = "1%"\n')
    model = text("g (float[N,64] x, float[64,64] v) => (float[N,64] y) { y = MatMul (x, v) }", v=weight(64, 64))
    onnx.save(model, folder / "m.onnx")
    assert main(["m.onnx", "o.onnx"]) == 2 and not (folder / "ran").exists()
    assert "--config mixquant.toml" in capsys.readouterr().err
    assert main(["m.onnx", "o.onnx", "--config", "mixquant.toml", "--data-free"]) == 0 and (folder / "ran").exists()


@pytest.mark.parametrize(
    ("content", "given", "goal"),
    [
        ("avg-bits = 8", ["--qem", "1000"], {"qem": 1000.0, "scope": "layer"}),
        ('max-drop = "1%"\nmetric-command = "echo {model}"\nmetric-key = "k"', ["--avg-bits", "3"], {"avg_bits": 3.0}),
        ("qem = 1", ["--max-size", "50%"], {"max_size": "50%"}),
        ("qem = 1\nscope = 'model'", ["--qem", "3"], {"qem": 3.0, "scope": "model"}),
    ],
)
def test_a_goal_of_the_command_line_replaces_that_of_the_file(
    content: str, given: list[str], goal: dict[str, Any], folder: Path
) -> None:
    (folder / "o.toml").write_text(content)
    model = text("g (float[N,64] x, float[64,64] v) => (float[N,64] y) { y = MatMul (x, v) }", v=weight(64, 64))
    onnx.save(model, folder / "m.onnx")
    assert main(["m.onnx", "o.onnx", "--config", "o.toml", "--data-free", "--plan", "p.json", *given]) == 0
    settings = json.loads((folder / "p.json").read_text())["settings"]
    assert {name: settings.get(name) for name in ("qem", "avg_bits", "max_size") if name in settings} == {
        name: value for name, value in goal.items() if name != "scope"
    }
    assert settings["scope"] == goal.get("scope", "model")
    assert main(["inspect", "m.onnx", "--config", "o.toml", "--data-free", "--apply", "p.json"]) == 0


def test_what_belongs_to_a_goal_stays_where_the_goal_does(folder: Path) -> None:
    (folder / "o.toml").write_text('max-drop = "1%"\nmetric-command = "echo {model}"\nmetric-timeout = 5\nbits = 4')
    parser = Parser(prog="p")
    add_options(parser)
    other = {"metric": "echo {model}", "metric_timeout": 5, "bits": 4}
    assert keywords_in(parser.parse_args(["--config", "o.toml", "--max-drop", "2%"])) == {"max_drop": "2%", **other}
    assert keywords_in(parser.parse_args(["--config", "o.toml", "--min-sqnr", "20"])) == {"min_sqnr": "20", "bits": 4}
    made = keywords_in(parser.parse_args(["--config", "o.toml", "--metric-command", "x {model}"]))
    assert made == {"max_drop": "1%", **other, "metric": "x {model}"}
    assert keywords_in(sweep.parser().parse_args(["--config", "o.toml", "--qem", "1,2"])) == {"bits": 4}


@pytest.mark.parametrize(
    "other", [{"avg_bits": 4}, {"max_size": "50%"}, {"max_drop": "1%"}, {"min_sqnr": 20}, {"min_agreement": "99%"}]
)
def test_qem_and_another_goal_exclude_each_other(
    other: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((name, value),) = other.items()
    flag = "--" + name.replace("_", "-")
    message = f"--qem and {flag} exclude each other; give one"
    with pytest.raises(mq.OptionError, match=message):
        mq.quantize("m.onnx", qem=2.0, **other)
    assert main(["m.onnx", "o.onnx", "--qem", "2", flag, str(value)]) == 2
    assert message in capsys.readouterr().err
    (folder / "mixquant.toml").write_text(f'qem = 2\n{name} = "{value}"\n')
    assert main(["m.onnx", "o.onnx"]) == 2
    assert f"mixquant.toml: {message}" in capsys.readouterr().err
