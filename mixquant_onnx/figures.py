"""The user's own measure of a model: a command or a callable that gives one number."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

from mixquant_onnx.errors import MetricError
from mixquant_onnx.options import Promise

_TAIL = 5
"""Lines of a failing command's output that are shown."""


def figure_of(model: Path, promise: Promise, timeout: float) -> float:
    """What the metric of `promise` says of the model at `model`. Raises MetricError."""
    if callable(promise.metric):
        given: Any = promise.metric(model)
        try:
            return _finite(float(given), "the metric")
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric gave {given!r}, which is no number") from error
    assert promise.metric is not None
    command = promise.metric.replace("{model}", shlex.quote(str(model)))
    lines = [line for line in _output(command, timeout).splitlines() if line.strip()]
    if not lines:
        raise MetricError(f"--metric-command printed nothing ({command}); its last line must be the figure")
    return _read(lines[-1], promise.metric_key, command)


def _output(command: str, timeout: float) -> str:
    """Standard output of `command`; its whole process group is ended when it takes longer than `timeout` seconds."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, shell=True, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            out, err = (_text(part) for part in process.communicate(timeout=timeout))
        except subprocess.TimeoutExpired as error:
            _stop(process)
            raise MetricError(
                f"--metric-command did not end within {timeout:g} seconds (--metric-timeout): {command}"
                f"{_shown(_text(error.stdout), _text(error.stderr))}"
            ) from error
        except BaseException:
            _stop(process)
            raise
    if process.returncode != 0:
        raise MetricError(f"--metric-command failed with exit code {process.returncode}: {command}{_shown(out, err)}")
    return out


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _shown(out: str, err: str) -> str:
    lines = [line for line in (out + "\n" + err).splitlines() if line.strip()][-_TAIL:]
    return "".join(f"\n  | {line}" for line in lines) if lines else " (it printed nothing)"


def _read(line: str, key: str | None, command: str) -> float:
    try:
        value: Any = json.loads(line)
    except ValueError:
        value = _number(line)
    if isinstance(value, dict):
        if key is None or key not in value:
            names = ", ".join(map(str, value)) or "none"
            wanted = "--metric-key says which figure to take" if key is None else f"--metric-key '{key}' is not in it"
            raise MetricError(f"--metric-command printed JSON; {wanted}; its keys are {names}")
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MetricError(f"--metric-command ended with '{line[:80]}', which is no number ({command})")
    return _finite(float(value), "--metric-command")


def _number(text: str) -> float | None:
    """Also what is no JSON, such as `.97`, which bc prints, and `nan`."""
    try:
        return float(text)
    except ValueError:
        return None


def _finite(value: float, source: str) -> float:
    if not math.isfinite(value):
        raise MetricError(f"{source} gave {value}; it must be a finite number")
    return value
