"""Part 4: a full disk, no permission, signals at any moment, two runs at once. Each in a process of its own."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from random import Random

import onnx

from reliability_checks.command import ROOT, Ended, changed, contents, ended, started
from reliability_checks.verdict import Failure, Part, Verdict

NOBODY = 65534
RUN = ("in.onnx", "out.onnx", "--data-free", "--quiet")
_IN_MAIN = re.compile(r'mixquant_onnx/cli/main.py", line [0-9]+, in main$', re.MULTILINE)
SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "term": signal.SIGTERM}


def cases(fast: bool) -> Sequence[str]:
    """Faults with a number; the old output is there, and data is outside, in every second and third."""
    moments = [f"{name}:{k}" for k in range(1 if fast else 50) for name in SIGNALS]
    few = ["full:0", "permission:0", "two:0"]
    many = [f"{name}:{k}" for name, count in (("full", 24), ("permission", 4), ("two", 12)) for k in range(count)]
    return moments + (few if fast else many)


@cache
def _seconds() -> float:
    """Seconds of a run of this part."""
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), old=False, external=False)
        start = time.monotonic()
        ended(started(RUN, cwd=folder))
        return time.monotonic() - start


def _prepare(folder: Path, old: bool, external: bool) -> None:
    model = onnx.load(ROOT / "models" / "digits_cnn" / "model.onnx")
    onnx.save(model, folder / "in.onnx", save_as_external_data=external, location="in.data", size_threshold=64)
    if old:
        assert ended(started((*RUN, "--bits", "8"), cwd=folder)).code == 0


def _complete(folder: Path) -> str | None:
    """What is wrong with out.onnx, which must load and be as it was asked for."""
    done = ended(started(("compare", "in.onnx", "out.onnx", "--no-benchmark", "--data-free"), cwd=folder))
    return None if done.code == 0 else f"the output is not complete: {done.told.strip():.200}"


def check(case: str, folder: Path) -> list[Verdict]:
    """One fault."""
    name, number = case.split(":")
    random, k = Random(case), int(number)
    _prepare(folder, old=k % 2 == 1, external=k % 3 == 2)
    if name in SIGNALS:
        return [_signalled(case, folder, random, SIGNALS[name])]
    return [{"full": _full, "permission": _permission, "two": _two}[name](case, folder, k)]


def _signalled(case: str, folder: Path, random: Random, number: signal.Signals) -> Verdict:
    before = contents(folder)
    process = started(RUN, cwd=folder, preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler))
    moment = random.random() * _seconds()
    time.sleep(moment)
    process.send_signal(number)
    end = ended(process)
    failures: list[Failure] = []
    killed = number == signal.SIGKILL
    # Python itself, or the import of the package, was interrupted: nothing was begun.
    early = not killed and (end.code == -number or ("KeyboardInterrupt" in end.told and not _IN_MAIN.search(end.told)))
    if not early and not (killed and end.code == -number):
        failures += end.failures()
    after = contents(folder)
    outputs = ["out.onnx", *(_locations(folder / "out.onnx") if "out.onnx" in after else [])]
    outputs += [name for name in before if name.startswith("out.onnx") and name not in after]
    left = [name for name in after if name.startswith(".out.onnx.")]
    failures += changed(before, after, [*outputs, *(left if killed else [])])
    new = after.get("out.onnx") != before.get("out.onnx")
    wrong = _complete(folder) if "out.onnx" in after else None
    failures += [] if wrong is None else [Failure(kind="lost", detail=wrong)]
    if new and "nothing was written" in end.told:
        failures.append(Failure(kind="lost", detail="'nothing was written' is told, but the output is new"))
    if killed:
        again = ended(started(RUN, cwd=folder))
        told = _complete(folder) if again.code == 0 else f"the next run ends with {again.code}: {again.told:.200}"
        failures += [] if told is None else [Failure(kind="lost", detail=told)]
    where = "not begun" if early else "new" if new else "old or none"
    return Verdict(case=case, outcome=f"{number.name}: output {where}", failures=_at(failures, moment))


def _at(failures: Sequence[Failure], moment: float) -> tuple[Failure, ...]:
    return tuple(Failure(kind=one.kind, detail=f"{one.detail} (after {moment:.3f} s)") for one in failures)


def _full(case: str, folder: Path, k: int) -> Verdict:
    """No file may be longer than some bytes; or the disk itself is full."""
    before, size = contents(folder), (100, 5000, 20_000, 60_000, 100_000, 150_000)[k // 2 % 6]
    if k % 2 and _mounted(folder, size + 700_000):
        try:
            return _verdict(case, folder / "disk", contents(folder / "disk"), ended(started(RUN, cwd=folder / "disk")))
        finally:
            subprocess.run(["umount", folder / "disk"], check=True)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    return _verdict(case, folder, before, ended(started(RUN, cwd=folder, preexec_fn=limit)))


def _mounted(folder: Path, size: int) -> bool:
    """A disk of few bytes with the model on it; False where it cannot be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        disk.rmdir()
        return False
    with suppress(OSError):
        for name in ("in.onnx", "in.data", "out.onnx"):
            if (folder / name).exists():
                shutil.copy(folder / name, disk / name)
    return True


def _verdict(case: str, folder: Path, before: dict[str, str], end: Ended) -> Verdict:
    written = [name for name in contents(folder) if name.startswith("out.onnx")] if end.code == 0 else []
    failures = end.failures() + changed(before, contents(folder), written)
    return Verdict(case=case, outcome=f"{case.split(':')[0]}: {end.outcome}", failures=tuple(failures))


def _permission(case: str, folder: Path, k: int) -> Verdict:
    """The folder, or the input, is another user's."""
    own = folder / "theirs"
    own.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            shutil.move(path, own / path.name)
    if k % 2:
        (own / "in.onnx").chmod(0o600)
        own.chmod(0o777)
    else:
        own.chmod(0o555)
    before = contents(own)
    if os.getuid() == 0:
        for path in (own, *own.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    return _verdict(case, own, before, ended(started(RUN, cwd=own, preexec_fn=_without_rights)))


def _without_rights() -> None:
    """Take from root, if that is who this is, the rights over files of others: another user cannot start its Python."""
    library = ctypes.CDLL(None)
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        library.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def _two(case: str, folder: Path, k: int) -> Verdict:
    """Two runs with other options to one output: it must be one of the two, complete."""
    before = contents(folder)
    bits: Sequence[str] = ("8", "4")
    pair = [started((*RUN, "--bits", one), cwd=folder) for one in bits]
    ends = [ended(process) for process in pair]
    failures = [failure for end in ends for failure in end.failures()]
    after = contents(folder)
    failures += changed(before, after, [name for name in after if name.startswith("out.onnx")])
    wrong = _complete(folder)
    failures += [] if wrong is None else [Failure(kind="lost", detail=wrong)]
    made = {name for name in after if name.startswith("out.onnx") and name.endswith(".data")}
    used = _locations(folder / "out.onnx")
    failures += [Failure(kind="lost", detail=f"{name} is left behind, nothing reads it") for name in made - used]
    return Verdict(case=case, outcome="two: " + " and ".join(str(end.code) for end in ends), failures=tuple(failures))


def _locations(path: Path) -> set[str]:
    model = onnx.load(path, load_external_data=False)
    return {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}


Fault = Callable[[str, Path, int], Verdict]

PART = Part(
    name="faults", title="full disks, permissions, signals, two runs at once", cases=cases, check=check, limit=200,
    memory=False,
)  # fmt: skip
