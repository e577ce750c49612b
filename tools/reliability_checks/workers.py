"""Cases in processes that may die or hang: each failure is told by the case, and the others go on."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from reliability_checks.verdict import Failure, Part, Verdict

MEMORY = 6 << 30
"""Bytes of address space of a worker: what takes more must end with an error in one line."""

_FORK = multiprocessing.get_context("fork")


class _Worker:
    """A process that runs one case after another."""

    def __init__(self, part: Part, root: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=root))
        self.own, other = _FORK.Pipe()
        self.process = _FORK.Process(target=_serve, args=(part, self.folder, other), daemon=True)
        self.process.start()
        other.close()
        self.case: str | None = None
        self.since = 0.0

    def begin(self, case: str) -> None:
        self.case, self.since = case, time.monotonic()
        self.own.send(case)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        self.own.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def trace(self) -> str:
        """Where Python was when the process died, by faulthandler."""
        text = (self.folder / "fault").read_text(errors="replace") if (self.folder / "fault").exists() else ""
        inside = [line.strip() for line in text.splitlines() if "mixquant_onnx/" in line]
        return inside[0] if inside else "no Python frame"


def _serve(part: Part, folder: Path, pipe: Connection[Any, Any]) -> None:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if part.memory:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sink = os.open(folder / "noise", os.O_WRONLY | os.O_CREAT)  # onnxruntime and protobuf write there by themselves
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout = sys.stderr = open(folder / "noise", "a")  # noqa: SIM115, PTH123 - open until the process ends
    faulthandler.enable(open(folder / "fault", "w"))  # noqa: SIM115, PTH123 - as above
    while True:
        case = pipe.recv()
        own = folder / "case"
        own.mkdir()
        try:
            found = part.check(case, own)
        except MemoryError:
            found = [Verdict(case=case, outcome="the check itself had too little memory")]
        except Exception as error:  # of the harness itself
            told = f"the check itself failed: {type(error).__name__}: {error}"
            found = [Verdict(case=case, outcome="failed", failures=(Failure(kind="crash", detail=told),))]
        pipe.send(found)
        shutil.rmtree(own, ignore_errors=True)


def results(part: Part, cases: Sequence[str], processes: int) -> Iterator[tuple[str, list[Verdict]]]:
    """Cases with their verdicts as they come; a case that kills its process or takes too long has one of its own."""
    left = list(reversed(cases))
    with tempfile.TemporaryDirectory(prefix="reliability.") as root:
        workers: list[_Worker] = []
        try:
            while left or workers:
                while left and len(workers) < processes:
                    workers.append(_Worker(part, Path(root)))
                    workers[-1].begin(left.pop())
                yield from _ready(part, workers, left)
        finally:
            for worker in workers:
                worker.end()


def _ready(part: Part, workers: list[_Worker], left: list[str]) -> Iterator[tuple[str, list[Verdict]]]:
    ready = wait([worker.own for worker in workers], timeout=1.0)
    for worker in list(workers):
        case = worker.case or ""
        if worker.own in ready:
            try:
                yield case, worker.own.recv()
            except (EOFError, ConnectionResetError):
                yield case, [_died(case, worker)]
            else:
                if left:
                    worker.begin(left.pop())
                    continue
        elif time.monotonic() - worker.since > part.limit:
            told = Failure(kind="hang", detail=f"over {part.limit:g} s")
            yield case, [Verdict(case=case, outcome="hang", failures=(told,))]
        else:
            continue
        worker.end()
        workers.remove(worker)


def _died(case: str, worker: _Worker) -> Verdict:
    worker.process.join()
    code = worker.process.exitcode or 0
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    told = Failure(kind="crash", detail=f"{name} at {worker.trace()}")
    return Verdict(case=case, outcome=name, failures=(told,))
