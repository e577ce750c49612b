"""A promise stopped from outside ends the user's command and leaves no file behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from cases import classifier, files_under
from test_figures import gone

import mixquant_onnx as mq
from mixquant_onnx.cli import signals as cli_common
from mixquant_onnx.cli.main import main

Start = Callable[..., tuple["subprocess.Popen[str]", int]]


def soon(true: Callable[[], object]) -> bool:
    """Whether it comes true within some seconds."""
    for _ in range(600):
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def start(model: Path, output: Path, tmp_path: Path) -> Iterator[Start]:
    """Begin a promise, and come back with its process when its command sleeps; with the process that sleeps."""
    begun: list[subprocess.Popen[str]] = []

    def run(*before: str) -> tuple[subprocess.Popen[str], int]:
        pid = tmp_path / "pid"
        command = f"(sleep 60 & echo $! > {pid}; wait); echo 1 # {{model}}"
        arguments = [str(model), str(output), "--max-drop", "1%", "--metric-command", command]
        heard = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
        try:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "mixquant_onnx", *arguments], stderr=subprocess.PIPE, text=True
            )
        finally:
            signal.signal(signal.SIGHUP, heard)
        begun.append(process)
        assert soon(lambda: pid.exists() and pid.read_text().strip())
        sleeping = int(pid.read_text())
        pid.unlink()
        assert any(path.name.startswith(".mixquant.") for path in tmp_path.iterdir())
        return process, sleeping

    yield run
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("signals", ["TERM", "HUP", "HUP TERM", "TERM HUP TERM HUP"])
def test_a_signal_ends_the_command_and_leaves_nothing(signals: str, model: Path, tmp_path: Path, start: Start) -> None:
    process, sleeping = start()
    for name in signals.split():
        process.send_signal(getattr(signal, f"SIG{name}"))
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and told == "mixquant-onnx: interrupted; nothing was written\n"
    assert gone(sleeping)
    assert list(files_under(tmp_path)) == [model]


def test_a_run_under_nohup_outlives_its_terminal(start: Start) -> None:
    process, sleeping = start("nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and Path(f"/proc/{sleeping}").exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and gone(sleeping)


def test_what_cleans_up_is_not_interrupted_again_unless_it_hangs() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with cli_common.stoppable(grace=0.2):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_leaves_handlers_as_they_were(model: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["inspect", str(model)]) == 0
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_after_the_file_is_written_is_told_as_that(
    model: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mixquant_onnx.cli.quantize.report", stopped)
    assert main([str(model), str(output), "--data-free"]) == 130
    assert capsys.readouterr().err == f"mixquant-onnx: interrupted; {output} is written\n" and output.exists()
    monkeypatch.setattr("mixquant_onnx.run.run", stopped)
    assert main([str(model), str(output), "--data-free"]) == 130
    assert capsys.readouterr().err == "mixquant-onnx: interrupted; nothing was written\n"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_files_are_placed_leaves_the_old_or_the_new(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out" / "q.onnx"
    out.parent.mkdir()
    onnx.save(classifier(), source, save_as_external_data=True, location="in.data", size_threshold=16)
    plain = Path.replace

    def stopped(path: Path, target: Path) -> Path:
        if path.name != out.name:
            return plain(path, target)
        if moment == "after":
            plain(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        mq.quantize(source, out, data_free=True)
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == ([] if moment == "before" else ["q.onnx", "q.onnx.data"])
