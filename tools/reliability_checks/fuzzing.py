"""Part 9: the coverage-guided fuzz target, for some seconds, where atheris is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from reliability_checks.mutants import bases
from reliability_checks.verdict import Failure, Part, Verdict

TARGET = Path(__file__).with_name("fuzz_target.py")
SECONDS = {True: 5, False: 300}


def cases(fast: bool) -> Sequence[str]:
    """Seconds and the seed of each run."""
    return [f"{SECONDS[fast]}:{seed}" for seed in range(1, 2 if fast else 3)]


def skip() -> str | None:
    """Why it cannot run."""
    return None if find_spec("atheris") else "atheris is not installed (pip install atheris; no extra of the package)"


def check(case: str, folder: Path) -> list[Verdict]:
    """One run of the fuzzer; its first crash ends it."""
    seconds, seed = case.split(":")
    corpus = folder / "corpus"
    corpus.mkdir()
    for k, data in enumerate(bases().values()):
        (corpus / str(k)).write_bytes(bytes([k * 37 % 256]) + data)
    limits = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=60", "-rss_limit_mb=6000", "-max_len=40000"]
    command = [sys.executable, str(TARGET), str(folder), *limits, f"-artifact_prefix={folder}/", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    runs = re.findall(r"stat::number_of_executed_units: (\d+)|^Done (\d+) runs|^#(\d+)", done.stderr, re.MULTILINE)
    count = max((int(part) for found in runs for part in found if part), default=0)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    outcome = f"{count} inputs, {covered[-1] if covered else 0} places reached"
    if done.returncode == 0:
        return [Verdict(case=case, outcome=outcome)]
    lines = [
        line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line or "mixquant_onnx/" in line
    ]
    return [Verdict(case=case, outcome=outcome, failures=(Failure(kind="crash", detail=" ".join(lines)[-400:]),))]


PART = Part(name="fuzz", title="a coverage-guided fuzzer", cases=cases, check=check, limit=600, skip=skip, memory=False)
