"""Part 7: one command, the same bytes: over jobs, processors, hash seeds, locales and versions of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from reliability_checks.command import ROOT, ended, started
from reliability_checks.verdict import Failure, Part, Verdict

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "rule": ("--data-free",), "proxies": (), "budget": ("--avg-bits", "5"), "qdq": ("--target", "qdq", "--bits", "4,8"),
    "data": ("--data", "calib.npz", "--qem", "8"), "speed": ("--for", "speed", "--data", "calib.npz"),
}  # fmt: skip
WAYS = (
    "again", "jobs", "one processor", "hash seed 0", "hash seed 4711", "locale C", "locale C.utf8", "another folder",
    "time zone", "optimized Python",
)  # fmt: skip


@cache
def _pythons() -> Mapping[str, str]:
    """Other Pythons that `tools/pythons` has made an environment for, or that MIXQUANT_PYTHONS names."""
    found = sorted(ROOT.glob(".venv-py3.*/bin/python"))
    named = [Path(one) for one in os.environ.get("MIXQUANT_PYTHONS", "").split(os.pathsep) if one]
    return {f"Python of {path.parent.parent.name}": str(path) for path in (*found, *named)}


def cases(fast: bool) -> Sequence[str]:
    """Commands and ways to run them."""
    if fast:
        return ["rule|hash seed 0"]
    return [f"{command}|{way}" for command in COMMANDS for way in (*WAYS, *_pythons())]


def check(case: str, folder: Path) -> list[Verdict]:
    """Run a command twice, the second time in another way."""
    command, way = case.split("|")
    digests = []
    for k in range(2):
        own = folder / ("a" if k == 0 or way != "another folder" else "another folder with spaces")
        own.mkdir(exist_ok=True)
        for name in ("model.onnx", "calib.npz"):
            shutil.copy(ROOT / "models" / "digits_cnn" / name, own / name)
        arguments = ("model.onnx", "out.onnx", *COMMANDS[command], "--plan", "plan.json")
        if k and way == "jobs":
            arguments = (*arguments, "--jobs", "2")
        done = ended(_process(arguments, own, way if k else ""), 300)
        if done.code:
            told = Failure(kind="crash", detail=f"exit {done.code}: {done.told.strip()[-300:]}")
            return [Verdict(case=case, outcome="failed", failures=(told,))]
        files = (own / "out.onnx", own / "plan.json")
        digests.append([sha256(file.read_bytes()).hexdigest() for file in files])
    if digests[0] == digests[1]:
        return [Verdict(case=case, outcome="same bytes")]
    told = Failure(
        kind="wrong",
        detail=f"other bytes: model {digests[0][0] != digests[1][0]}, plan {digests[0][1] != digests[1][1]}",
    )
    return [Verdict(case=case, outcome="other bytes", failures=(told,))]


def _process(arguments: Sequence[str], folder: Path, way: str) -> subprocess.Popen[str]:
    changes: dict[str, str] = {"PYTHONHASHSEED": "random"}
    options: dict[str, object] = {}
    kind, _, value = way.partition(" ")
    if way.startswith("hash seed"):
        changes["PYTHONHASHSEED"] = way.split()[-1]
    elif kind == "locale":
        changes |= {"LC_ALL": value, "LANG": value}
    elif way == "time zone":
        changes["TZ"] = "Asia/Kathmandu"
    elif way == "optimized Python":
        changes["PYTHONOPTIMIZE"] = "2"
    elif way == "one processor":
        first = min(os.sched_getaffinity(0))
        options["preexec_fn"] = lambda: os.sched_setaffinity(0, {first})
    return started(arguments, python=_pythons().get(way, sys.executable), cwd=folder, env=changes, **options)


PART = Part(
    name="determinism", title="the same bytes in every way to run", cases=cases, check=check, limit=400, memory=False
)
