"""The command in this process or in one of its own, and what must hold however it ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mixquant_onnx import errors, run
from mixquant_onnx.cli.main import INTERRUPTED, NOT_READ, main
from mixquant_onnx.result import RunResult
from reliability_checks.verdict import Failure

ROOT = Path(__file__).resolve().parent.parent.parent


def _codes(of: type[errors.MixquantError]) -> set[int]:
    return {of.exit_code}.union(*(_codes(one) for one in of.__subclasses__()))


DOCUMENTED = _codes(errors.MixquantError) | {0, INTERRUPTED, NOT_READ}
"""Exit codes of README.md."""

MEANING = {one.exit_code: one.__name__ for one in errors.MixquantError.__subclasses__()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended. `result`: what it made, where it ran in this process."""

    code: int
    told: str
    result: RunResult | None = None

    @property
    def outcome(self) -> str:
        """In words that are counted."""
        if self.code == 0:
            return "written and verified"
        if "Traceback" in self.told:
            return "traceback"
        return f"exit {self.code} ({MEANING.get(self.code, 'MixquantError')})"

    def failures(self) -> list[Failure]:
        """What must hold of every end."""
        last = self.told.strip().splitlines()[-1:] or [""]
        if self.code < 0 or "Traceback" in self.told:
            return [Failure(kind="crash", detail=f"exit {self.code}: {_brief(self.told)}")]
        if self.code not in DOCUMENTED:
            return [Failure(kind="crash", detail=f"exit code {self.code} is not documented: {last[0]}")]
        one = self.told.startswith("mixquant-onnx: ") and self.told.count("\n") == 1
        if self.code != 0 and not one:
            return [Failure(kind="crash", detail=f"exit {self.code}, not told in one line: {self.told!r:.300}")]
        return []


def _brief(text: str) -> str:
    """The last line of a traceback, and the last place in the package that it names."""
    lines = text.strip().splitlines() or [""]
    places = [line.strip() for line in lines if "mixquant_onnx/" in line]
    return f"{lines[-1]:.200} at {places[-1] if places else '?'}"


def called(arguments: Sequence[object]) -> Ended:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    made: list[RunResult] = []
    with _recorded(made), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(one) for one in arguments])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    return Ended(code=code, told=err.getvalue(), result=made[-1] if made and code == 0 else None)


@contextlib.contextmanager
def _recorded(made: list[RunResult]) -> Iterator[None]:
    """The results of runs within the context."""
    plain = run.run

    def recorded(*given: Any, **more: Any) -> Any:
        planned, result = plain(*given, **more)
        made.append(result)
        return planned, result

    run.run = recorded
    try:
        yield
    finally:
        run.run = plain


def started(arguments: Sequence[object], python: str = sys.executable, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **options.pop("env", {})}
    command = [python, "-m", "mixquant_onnx", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
        **options,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float = 120) -> Ended:
    """How a process ended; TimeoutExpired where it did not."""
    told = process.communicate(timeout=seconds)[1]
    code = process.returncode
    if code == -signal.SIGINT and told.startswith("mixquant-onnx: interrupted"):
        # Where KeyboardInterrupt went through an exec of text, as dataclasses have, CPython 3.11 ends by SIGINT though
        # it was caught: 130 for a shell.
        code = INTERRUPTED
    return Ended(code=code, told=told)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file under a folder, and the links that there are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "a folder"
    return found


def changed(before: dict[str, str], after: dict[str, str], written: Sequence[str] = ()) -> list[Failure]:
    """Files that are lost, changed or left behind, but for those that were to be written."""
    names = sorted((set(before) | set(after)) - set(written))
    wrong = [name for name in names if before.get(name) != after.get(name)]
    words = {True: "left behind", False: "changed or gone"}
    return [Failure(kind="lost", detail=f"{name!r} is {words[name not in before]}") for name in wrong]
