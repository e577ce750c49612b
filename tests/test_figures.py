"""The user's own measure of a model, goals that make no sense, and that neither leaves anything behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Fails, classifier, files_under

import mixquant_onnx as mq
from mixquant_onnx.accuracy.external_metric import figure_of
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import MetricError

HERE = Path("here.onnx")


def figure(metric: Any, key: str | None = None, model: Path = HERE, timeout: float = 30.0) -> float:
    """What a command (its comment names the model) or a callable gives."""
    command = f"{metric} # {{model}}" if isinstance(metric, str) and "{model}" not in metric else metric
    return figure_of(model, AccuracyOptions(max_drop=0.1, metric=command, metric_key=key, metric_timeout=timeout))


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("0.97", 0.97), ("-3", -3.0), (".5", 0.5), ("1e-3", 0.001), (" 7 ", 7.0), ("loading\\n\\n0.25\\n\\n", 0.25),
        ("1 of 2\\n2", 2.0), ("\\377\\n5", 5.0),
    ],
)  # fmt: skip
def test_the_last_line_of_a_command_is_its_figure(printed: str, value: float) -> None:
    assert figure(f"printf -- '{printed}'; echo 9 >&2") == value


def test_a_key_picks_one_figure_of_a_line_of_json() -> None:
    command = """echo starting; echo '{"loss": 3, "top 1": 0.5}'"""
    assert (figure(command, "loss"), figure(command, "top 1")) == (3.0, 0.5)


def test_the_model_is_named_to_the_command_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "it's $HOME; a model.onnx"
    path.write_bytes(b"1234567")
    assert figure("wc -c < {model}", model=path) == 7
    assert figure("cat {model} {model} | wc -c", model=path) == 14


@pytest.mark.parametrize(
    "name",
    ["model.onnx", "a model.onnx", "it's.onnx", '"; touch made; ".onnx', "$(touch made)`touch made`.onnx", "* \\"],
)
@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("{model}", ""),
        ("'{model}'", ""),
        ('"{model}"', ""),
        ("--in={model}", "--in="),
        ("'--in={model}'", "--in="),
        ('--in="{model}"', "--in="),
        ("it\\'s' '{model}", "it's "),
        ("'\\'{model}", "\\"),
        ('"it\'s \\" {model}"', "it's \" "),
        ("\"$(echo '{model}' | cat)\"", ""),
        ('"$(printf %s "$(cat < {model})")"', ""),
        ('"`echo "{model}"`"', ""),
        ("$((1+1)){model}", "2"),
    ],
)
def test_the_model_is_a_part_of_one_word_however_it_is_quoted(
    words: str, more: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, script = tmp_path / name, tmp_path / "evaluate.py"
    script.write_text(
        "import sys\nwanted = open('wanted').read()\nprint(int(sys.argv[1:] == [wanted]), sys.argv, wanted)"
    )
    Path("wanted").write_text(more + str(path))
    path.write_text(str(path))
    assert figure(f"{sys.executable} evaluate.py {words} | cut -c1", model=path) == 1
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("command", "key", "named"),
    [
        ("true", None, ["printed nothing"]),
        ("echo; echo", None, ["printed nothing"]),
        ("echo done", None, ["'done'", "no number"]),
        ("echo 'accuracy: 0.9'", None, ["'accuracy: 0.9'"]),
        ("echo true", None, ["'true'"]),
        ("echo null", None, ["'null'"]),
        ("echo [1, 2]", None, ["'[1, 2]'"]),
        ("echo '\"0.9\"'", None, ["no number"]),
        ("echo nan", None, ["nan", "finite"]),
        ("echo NaN", None, ["nan", "finite"]),
        ("echo -Infinity", None, ["-inf", "finite"]),
        ("echo 1e999", None, ["inf", "finite"]),
        ("""echo '{"a": 1, "b c": 2}'""", None, ["--metric-key", "a, b c"]),
        ("""echo '{"a": 1, "b c": 2}'""", "d", ["'d' is not in it", "a, b c"]),
        ("echo '{}'", "d", ["none"]),
        ("""echo '{"a": "high"}'""", "a", ["no number"]),
        ("""echo '{"a": NaN}'""", "a", ["nan", "finite"]),
        ("echo one; echo two >&2; exit 3", None, ["exit code 3", "| one", "| two"]),
        ("seq 100 109; exit 1", None, ["| 105", "| 109"]),
        ("exit 4", None, ["exit code 4", "printed nothing"]),
        ("no-such-command-here", None, ["exit code 127", "| ", "not found"]),
    ],
)  # fmt: skip
def test_a_command_that_gives_no_figure_is_told_with_what_it_said(
    command: str, key: str | None, named: list[str], model: Path, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files_under(model.parent)
    keys = ["--metric-key", key] if key else []
    arguments = ["--max-drop", "1%", "--metric-command", f"{command} # {{model}}", *keys]
    assert main([str(model), str(output), *arguments]) == 10
    printed = capfd.readouterr()
    assert all(part in printed.err for part in named) and printed.err.startswith("mixquant-onnx: --metric-command ")
    assert "| 104" not in printed.err and "Traceback" not in printed.err + printed.out
    assert files_under(model.parent) == before


def gone(process: int) -> bool:
    """Whether it has ended, within some seconds."""
    for _ in range(100):
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_command_is_ended_with_its_children_and_reported(tmp_path: Path) -> None:
    pid, begun = tmp_path / "pid", time.monotonic()
    with pytest.raises(MetricError, match=r"within 0\.8 seconds \(--metric-timeout\)(.|\n)*\| working"):
        figure(f"echo working; (sleep 60 & echo $! > {pid}; wait); true", timeout=0.8)
    assert time.monotonic() - begun < 10
    assert gone(int(pid.read_text()))


def test_a_child_that_left_its_group_does_not_hold_the_run_up(tmp_path: Path) -> None:
    pid, begun = tmp_path / "pid", time.monotonic()
    with pytest.raises(MetricError, match="within 1 seconds"):
        figure(f"setsid sh -c 'echo $$ > {pid}; exec sleep 30' & wait", timeout=1)
    assert time.monotonic() - begun < 10
    os.kill(int(pid.read_text()), 9)


def test_an_interrupt_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, wait = tmp_path / "pid", subprocess.Popen.communicate

    def interrupted(process: subprocess.Popen[bytes], *_: object, **__: object) -> None:
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        figure(f"sleep 60 & echo $! > {pid}; wait")
    monkeypatch.setattr(subprocess.Popen, "communicate", wait)
    assert gone(int(pid.read_text()))


def test_a_callable_may_give_any_number() -> None:
    assert figure(lambda path: np.float32(len(path.name))) == 9.0
    assert figure(lambda _: np.array(3)) == 3.0


@pytest.mark.parametrize("value", [None, "high", float("nan"), np.inf, [1, 2]], ids=str)
def test_a_callable_that_gives_no_number_is_told(value: object) -> None:
    with pytest.raises(MetricError, match="the metric gave"):
        figure(lambda _: value)


def test_the_error_of_a_callable_is_its_own() -> None:
    with pytest.raises(ValueError, match="mine"):
        figure(lambda _: int("mine"))


SIZE = "wc -c < {model}"
METRIC = f"--metric-command='{SIZE}'"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        *[(f"--max-size={size}", "--max-size") for size in ("0", "0%", "-5MB", "5XB", "many", "1.2.3MB", "%")],
        *[(f"--avg-bits={bits}", "--avg-bits") for bits in ("1.9", "33", "nan", "many")],
        *[(f"--max-drop={share}", "--max-drop") for share in ("100%", "-1%", "5", "nan", "few")],
        *[(f"--min-agreement={share}", "--min-agreement") for share in ("0", "101%", "99", "most")],
        *[(f"--min-sqnr={ratio}", "--min-sqnr") for ratio in ("nan", "inf", "loud")],
        *[(f"--max-drop=1% {METRIC} --metric-timeout={s}", "--metric-timeout") for s in ("0", "-1", "nan", "1e9")],
        ("--max-drop=1% --metric-command=true", "{model}"),
        (METRIC, "--max-drop"),
        ("--max-drop=1% --metric-key=a", "--metric-command"),
        ("--max-drop=1% --lower-is-better", "--metric-command"),
        ("--min-sqnr=9 --lower-is-better", "--metric-command"),
        ("--max-size=1MB --avg-bits=4", "--avg-bits"),
        ("--max-drop=1% --avg-bits=4", "--avg-bits"),
        ("--min-sqnr=20 --max-size=1MB", "--max-size"),
        ("--min-agreement=99% --avg-bits=4", "--avg-bits"),
        ("--max-drop=1% --min-sqnr=20", "--min-sqnr"),
        ("--min-agreement=99% --min-sqnr=20", "--min-sqnr"),
        ("--min-sqnr=20 --no-verify --data=x.npz", "--no-verify"),
        ("--cost=output --max-size=1MB --data-free", "--data"),
    ],
)  # fmt: skip
def test_a_goal_that_makes_no_sense_is_named(options: str, named: str, model: Path, output: Path, fails: Fails) -> None:
    arguments = [a.replace("'", "") for a in re.findall(r"(?:[^\s']|'[^']*')+", options)]
    assert named in fails(2, model, output, *arguments)


def test_a_callable_judges_each_model_as_a_file_of_its_own(tmp_path: Path, output: Path) -> None:
    seen: list[Path] = []

    def metric(path: Path) -> float:
        seen.append(path)
        assert onnx.load(path).graph.node and path.is_absolute()
        return 1.0

    result = mq.quantize(classifier(), output, metric=metric, max_drop="1%", verify=False)
    assert len(seen) == len(set(seen)) > 2
    assert result.files == (output,) and files_under(tmp_path) == {output: output.read_bytes()}
    assert mq.quantize(classifier(), metric=metric, max_drop=0.01, verify=False).files == ()
    assert not any(path.exists() for path in seen)


def stopped(*_: object, **__: object) -> float:
    raise KeyboardInterrupt


def test_what_goes_wrong_on_the_way_leaves_nothing(
    model: Path, output: Path, tmp_path: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_under(tmp_path)
    for metric, raised in ((lambda _: float("nan"), MetricError), (stopped, KeyboardInterrupt)):
        with pytest.raises(raised):
            mq.quantize(model, output, metric=metric, max_drop=0.1)
        assert files_under(tmp_path) == before

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for owner, step in ((tempfile, "TemporaryDirectory"), (Path, "mkdir"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, full)
            assert "No space left" in fails(4, model, output, "--metric-command", SIZE, "--max-drop", "60%")
