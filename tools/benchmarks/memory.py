"""Memory of making and of running, on decoder-shaped models of several sizes: one process each.

Making: peak, CPU seconds and time as a multiple of a copy of the same files, which runs just before. Running: memory
that a session holds after one token and its peak while it loads; time of one token as a share of float's, where both
fit into memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.large_models import write_decoder
from benchmarks.timing import medians, session, table, versions
from mixquant_onnx.verification.memory import Memory, memory

METERED = (sys.executable, "-I", str(Path(__file__).with_name("metered.py")))
FORMS = ("--qem 2", "--for memory --bits 4", "--for memory --bits 4 --jobs 2", "--for memory --bits 8")
FEED = {"ids": np.array([[3]])}

_TIMES_FOLDED, _TIMES_FLOAT = 6, 2.2
"""Memory that loading takes at most, as a multiple of the float model, if weights are folded at load and if not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One run of the command: what it took, and its files' bytes; `failure` is empty if all is well."""

    cpu: float
    wall: float
    peak: int
    nbytes: int
    failure: str


def nbytes_of(path: Path) -> int:
    """Of a model and its data files."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def copied(path: Path) -> float:
    """Seconds of reading and writing the files of a model."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(file, Path(folder) / file.name)
        os.sync()
        return time.perf_counter() - start


def make(model: Path, output: Path, options: str) -> Made:
    """Run the command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [*METERED, str(log), sys.executable, "-m", "mixquant_onnx", str(model), str(output)]
        done = subprocess.run([*command, *shlex.split(options)], capture_output=True, text=True, check=False)
        took = json.loads(log.read_text())
    last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
    failure = "" if done.returncode == 0 else f"exit {done.returncode}: {''.join(last)}"
    peak = took["alone"] or took["peak"]
    return Made(cpu=took["cpu"], wall=took["wall"], peak=peak, nbytes=nbytes_of(output), failure=failure)


def available() -> int:
    """Bytes of memory that are free for a process."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    return 0


def ran(path: Path, needs: float) -> Memory | None:
    """Memory of a session; None where this machine has too little."""
    return memory(path, FEED) if needs < available() else None


def token_share(first: Path, second: Path) -> float:
    """Time of one token with the second model as a share of the first's, one thread each."""
    one, other = (session(str(path), 1) for path in (first, second))
    before, after = medians([lambda: one.run(None, FEED), lambda: other.run(None, FEED)])
    return after / before


def measure(model: Path, weights: int, folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables for one model."""
    size = nbytes_of(model)
    name = f"{size / 1e9:.2f} GB"
    base = ran(model, _TIMES_FLOAT * size)
    making, running = [], [[name, "float", *_of(base, size, size), "1"]]
    for form in FORMS:
        output = folder / "out.onnx"
        copy = copied(model)
        made = make(model, output, form)
        making.append(
            [name, f"`{form}`", f"{made.nbytes / 1e6:.0f} MB", f"{made.peak / 1e6:.0f} MB", f"{made.peak / size:.2f}",
             f"{made.cpu:.0f}", f"{made.cpu / weights * 20e6:.2f}", f"{copy:.1f} s", f"{made.wall / copy:.1f}",
             made.failure or "yes"]
        )  # fmt: skip
        if not made.failure and "--jobs" not in form:
            found = ran(output, (_TIMES_FOLDED if "memory" not in form else 1) * size)
            share = "-" if base is None or found is None else f"{token_share(model, output):.2f}"
            running.append([name, f"`{form}`", *_of(found, made.nbytes, size), share])
        for file in folder.glob("out.onnx*"):
            file.unlink()
    return making, running


def _of(found: Memory | None, nbytes: int, size: int) -> list[str]:
    """Held and peak memory, as a multiple of the file and of the float model."""
    if found is None:
        return ["not run", "-", "-", "-"]
    return [f"{found.held / 1e6:.0f} MB", f"{found.held / nbytes:.2f}", f"{found.peak / 1e6:.0f} MB",
            f"{found.peak / size:.2f}"]  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench memory", description=__doc__)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.56, 2, 8])
    parser.add_argument("--folder", type=Path, help="where models are written; 11 GB for one of 8 GB")
    args = parser.parse_args(arguments)
    making: list[list[str]] = []
    running: list[list[str]] = []
    for gigabytes in args.gigabytes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            (Path(folder) / "in").mkdir()
            model = Path(folder) / "in" / "float.onnx"
            write_decoder(model, int(gigabytes * 1e9))
            made, ran_ = measure(model, nbytes_of(model) // 4, Path(folder))
        making += made
        running += ran_
    print(f"# Memory\n\n{versions()}; decoders with an embedding of 32000 x 2048 and layers of four products.\n")
    print("## Making\n\nOne process each; the copy is of the same files, just before.\n")
    print(table(["model", "options", "file", "peak", "/ float file", "CPU s", "CPU s / 20 M weights", "copy",
                 "wall / copy", "verified"], making))  # fmt: skip
    print("\n## Running\n\nOne process each, one thread, after one token; float's weights are mapped.\n")
    print(table(["model", "options", "held", "/ file", "peak", "/ float file", "token / float"], running))
    return 0
