"""The line of progress: the stages of a run and the time left, as a terminal shows them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import text, weight

import mixquant_onnx as mq
from mixquant_onnx import run
from mixquant_onnx.api import checked_config
from mixquant_onnx.cli.progress import ProgressLine
from mixquant_onnx.cli.stages import SHARES, Command, TimeLeft, stages_of
from mixquant_onnx.job import Job
from mixquant_onnx.model.files import as_loaded

CNN = Path(__file__).resolve().parent.parent / "models" / "digits_cnn"
RULE: dict[str, Any] = {}
BUDGET = {"avg_bits": 4}
EVERY = ["solve layers", "measure layers", "measure pairs", "compare plans", "compare finished plans"]
END = ["quantize", "save", "verify"]


MODEL = text(
    """g (float[N,64] x, float[64,64] a, float[64,64] b, float[64,64] c, float[64,64] d, float[64,64] e)
    => (float[N,64] y) {
        h = MatMul (x, a) i = Relu (h) j = MatMul (i, b) k = Add (x, j)
        l = MatMul (k, c) m = Relu (l) n = MatMul (m, d) o = Add (k, n) y = MatMul (o, e) }""",
    a=weight(64, 64, seed=0), b=weight(64, 64, seed=1), c=weight(64, 64, seed=2), d=weight(64, 64, seed=3),
    e=weight(64, 64, seed=4),
)  # fmt: skip
"""Two residual blocks and a layer."""
ROWS = {"x": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    with np.load(CNN / "calib.npz") as data:
        np.savez(path, input=data["input"][:64])
    return path


class Seen:
    """The stages that a run reported, and those that were expected of it."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.expected: tuple[str, ...] = ()

    def __call__(self, stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total and total > 0
        if stage not in self.stages:
            self.stages.append(stage)

    def opened(self, command: Command) -> Callable[[Job], None]:
        def expect(job: Job) -> None:
            self.expected = stages_of(job.config, command, job.work.origin, job.method)

        return expect


@pytest.mark.parametrize(
    ("source", "options", "stages"),
    [
        ("noise", RULE, END),
        ("rows", RULE, END),
        ("rows", {"scope": "model"}, [*EVERY[:2], *END]),
        ("rows", {"verify": False, **BUDGET}, [*EVERY[:2], *EVERY[3:], *END[:2]]),
        ("rows", {"effort": "fast", **BUDGET}, ["solve layers", "compare plans", *END]),
        ("rows", {"effort": "thorough", "method": "gptq", **BUDGET}, [*EVERY, *END]),
        ("rows", {"cost": "block-output", **BUDGET}, [*EVERY[:3], *END]),
        ("rows", {"cost": "weight-error", **BUDGET}, END),
        ("proxies", {"avg_bits": 5}, ["solve layers", *EVERY[3:], *END]),
        ("noise", BUDGET, END),
        ("rows", {"min_sqnr": 25}, [*EVERY[:2], *EVERY[3:], *END]),
    ],
)
def test_a_run_reports_the_stages_that_are_expected(
    source: str, options: dict[str, Any], stages: list[str], tmp_path: Path
) -> None:
    config = checked_config(**options, **({"data": ROWS} if source == "rows" else {}))
    model = as_loaded(CNN / "model.onnx" if source == "proxies" else MODEL)
    seen = Seen()
    run.run(model, config, tmp_path / "o.onnx", "it", seen, opened=seen.opened("quantize"))
    assert list(seen.expected) == ["search", *stages]
    # Where one plan is far ahead, no other is finished to be compared.
    assert seen.stages == [s for s in seen.expected if s in seen.stages or s != "compare finished plans"]


def test_other_commands_report_the_stages_that_are_expected(tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": ROWS, "effort": "fast", "cost": "layer-output", **BUDGET}
    config, seen = checked_config(**options), Seen()
    planned = run.plan(as_loaded(MODEL), config, seen, seen.opened("inspect"))
    assert seen.stages == list(seen.expected) == ["search", "solve layers"]
    seen = Seen()
    mq.apply_plan(MODEL, planned.plan, tmp_path / "o.onnx", progress=seen, data=ROWS)
    assert seen.stages == list(stages_of(config, "replay", "user")) == ["search", *END]
    del options["avg_bits"]
    for swept in (options, {**options, "cost": "auto"}):
        seen = Seen()
        mq.sweep(MODEL, average_bits=[4], qems=[2], progress=seen, **swept)
        assert seen.stages == list(stages_of(checked_config(**swept), "sweep", "user"))


RUN = ("search", "solve layers", "compare plans", "quantize", "verify")


def test_the_time_left_is_that_of_a_run_that_takes_its_time_as_expected() -> None:
    left, taken, whole = TimeLeft(RUN), 0.0, sum(SHARES[stage] for stage in RUN)
    for stage in RUN:
        for _ in range(4):
            taken += SHARES[stage] / 4
            told = left.after(stage, round(4 * (taken - before(stage)) / SHARES[stage]), 4, 300 * taken)
            assert told == pytest.approx(300 * (whole - taken), abs=1e-6)


def before(stage: str) -> float:
    return sum(SHARES[one] for one in RUN[: RUN.index(stage)])


def test_a_stage_that_was_left_out_counts_as_no_time() -> None:
    left = TimeLeft(RUN)
    left.after("search", 1, 1, 10)
    told = left.after("compare plans", 1, 1, 20)
    assert told == pytest.approx(
        20 * (SHARES["quantize"] + SHARES["verify"]) / (SHARES["search"] + SHARES["compare plans"])
    )


def test_nothing_is_told_while_there_is_nothing_to_go_by() -> None:
    assert TimeLeft(RUN).after("search", 1, 100, 60) is None
    assert TimeLeft(RUN).after("search", 1, 1, 0.1) is None
    assert TimeLeft(RUN).after("measure pairs", 1, 1, 60) is None
    assert TimeLeft(("search", "sweep")).after("search", 1, 1, 60) is None
    assert TimeLeft(()).after("search", 1, 1, 60) is None


def test_the_line_tells_the_stage_and_the_time_left() -> None:
    now = [100.0]
    line = ProgressLine(lambda: now[0])
    assert str(line) == "read data"
    now[0] += 50
    line.expect(RUN)
    line("search", 3, 20_000)
    assert str(line) == "1/5 search  0 %"
    now[0] += 11
    line("search", 20_000, 20_000)
    assert str(line) == "1/5 search  100 %  0:42 left"
    line("solve layers", 12, 46)
    now[0] += 3
    counting_down = str(line)
    assert counting_down.startswith("2/5 solve layers  12/46  0:") and counting_down.endswith(" left")
    assert int(counting_down[-7:-5]) in range(20, 40)
    now[0] += 20_000
    assert str(line).endswith("0:01 left")
    line("quantize: error 3 -> 2", 1, 2)
    assert str(line).startswith("4/5 quantize: error 3 -> 2  1/2  ") and re.search(r"  \d:\d\d:\d\d left$", str(line))


def test_with_an_accuracy_target_the_line_tells_the_trial() -> None:
    line = ProgressLine(lambda: 0.0)
    line.expect(["search", "quantize", "save", "verify"], trials=True)
    line("search", 1, 1)
    assert str(line) == "1/4 search  1/1"
    for trial in (1, 2):
        line("quantize", 1, 7)
        line("quantize: error 3 -> 2", 2, 7)
        assert str(line) == f"2/4 quantize: error 3 -> 2  2/7  trial {trial}"
        line("verify", 1, 4)
        assert str(line) == f"4/4 verify  1/4  trial {trial}"


def test_stages_that_are_not_expected_are_shown_alone() -> None:
    line = ProgressLine(lambda: 0.0)
    line("sweep", 1, 3)
    assert str(line) == "sweep  1/3"


PROGRESS = re.compile(r"\d/\d |read data")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("options", "code", "shown", "kept"),
    [
        ([], 0, "8/8 verify", "wrote"),
        pytest.param(["--min-sqnr", "15"], 0, "trial 1", "bits a weight", marks=pytest.mark.slow),
        (["--avg-bits", "2"], 2, "read data", "mixquant-onnx: "),
    ],
)
def test_the_line_never_wraps_and_leaves_nothing_behind(
    options: list[str], code: int, shown: str, kept: str, rows: Path, tmp_path: Path
) -> None:
    goal = options or ["--avg-bits", "4"]
    found, raw = in_terminal(str(CNN / "model.onnx"), str(tmp_path / "o.onnx"), "--data", str(rows), *goal)
    assert found == code
    progress = [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", raw) if PROGRESS.match(line)]
    assert any(shown in line for line in progress) and max(map(len, progress)) <= 80
    left = on_screen(raw)
    assert any(kept in line for line in left)
    assert not [line for line in left if PROGRESS.match(line)]
    assert "\x1b[?25h" in raw.rpartition("\x1b[?25l")[2]


def in_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code and all output of the command on a terminal of 80 columns."""
    import fcntl
    import pty
    import struct
    import termios

    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(COLUMNS="80", TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-m", "mixquant_onnx", *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    parts = []
    with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), b"".join(parts).decode()


def on_screen(raw: str) -> list[str]:
    """The lines that are left on a terminal, by the few controls that the command uses."""
    lines, row = [""], 0
    for control, words in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", raw):
        if control == "\n":
            row += 1
            lines += [""] if row == len(lines) else []
        elif control == "\x1b[2K":
            lines[row] = ""
        elif control == "\x1b[1A":
            row -= 1
        elif words:
            lines[row] += words
    return lines
