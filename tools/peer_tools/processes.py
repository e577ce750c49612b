"""Run a command with a time limit; tell in one line why it failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

QUIET = {"OMP_NUM_THREADS": "1", "NNCF_CI": "1", "COLUMNS": "1000"}
LONGEST = 140
RAISED = re.compile(r"[\w.]*(Error|Exception|Fail|Invalid\w+|NotImplemented|Panic\w*)\b")
NOISE = (
    r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"^[\w.]+\.(?=\w+: )",
    r"Load model from \S+ failed: ?|This is an invalid model\. ?",
    r"Non-zero status code returned while running |Status Message: ",
    rf"(/onnxruntime_src|{re.escape(tempfile.gettempdir())}|\S*/site-packages)/\S+ ?",
    r"void onnxruntime::[^)]*\) ",
    r"\S+\(\) == .*? was false\. ",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What came of a command; `failure` is None where it ended well."""

    output: str
    failure: str | None


def run(command: Sequence[object], seconds: float) -> Done:
    """Run it in a session of its own, so that a timeout also ends what it started."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | QUIET,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(stop, KeyboardInterrupt):
            raise
        return Done(output="", failure=f"took more than {seconds:g} s")
    if process.returncode == 0:
        return Done(output=output, failure=None)
    if process.returncode < 0:
        return Done(output=output, failure=f"ended by signal {-process.returncode}")
    return Done(output=output, failure=reason(errors) or f"exit code {process.returncode}")


def reason(errors: str) -> str:
    """The message of the last exception in `errors`, on one line, without paths and fit for a table."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    raised = [k for k, line in enumerate(lines) if RAISED.match(line)]
    text = " ".join(lines[raised[-1] :] if raised else lines[-1:])
    for noise in NOISE:
        text = re.sub(noise, "", text)
    text = text.replace("|", "/").replace("`", "'")
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."
