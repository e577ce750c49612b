"""The user's metric of a model: a command or a callable that gives one number."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from mixquant_onnx.config.stages import AccuracyOptions
from mixquant_onnx.errors import MetricError

_TAIL = 5
"""Lines of a failing command's output that are shown."""

_WAKE = 0.5
"""Seconds between checks for signals: one that another thread received does not interrupt waiting here."""

_VARIABLE = "MIXQUANT_MODEL"
"""Environment variable with the path of the model."""


def figure_of(model: Path, target: AccuracyOptions) -> float:
    """The metric value of a model.

    Args:
        model: Path of the model.
        target: The metric.

    Returns:
        A finite number.

    Raises:
        MetricError: The metric failed, timed out, or gave no number.
    """
    if callable(target.metric):
        given: Any = target.metric(model)
        try:
            return _finite(float(given), "the metric")
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric gave {given!r}, which is no number") from error
    assert target.metric is not None
    command = target.metric.replace("{model}", shlex.quote(str(model)))
    lines = [
        line for line in _output(target.metric, model, command, target.metric_timeout).splitlines() if line.strip()
    ]
    if not lines:
        raise MetricError(f"--metric-command printed nothing ({command}); its last line must be the value")
    return _read(lines[-1], target.metric_key, command)


def _output(metric: str, model: Path, command: str, timeout: float) -> str:
    """Standard output of a command; its whole process group is killed after `timeout` seconds.

    The path of the model is passed in the environment, so that a shell does not interpret it. `command` is for
    messages.
    """
    pipe, named = subprocess.PIPE, {**os.environ, _VARIABLE: str(model)}
    with subprocess.Popen(
        with_variable(metric), shell=True, stdout=pipe, stderr=pipe, env=named, start_new_session=True
    ) as process:
        try:
            out, err = (_text(part) for part in _communicate(process, timeout))
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


def with_variable(command: str) -> str:
    """Replace each {model} in a command by a shell variable.

    Args:
        command: The command.

    Returns:
        The command, with quotes that suit each position.
    """
    made, inside = [], [""]
    for token in re.findall(r"\{model\}|\$\(|\\.|.", command, re.DOTALL):
        here = inside[-1]
        if token == "{model}":
            made.append({"'": f"'\"${_VARIABLE}\"'", '"': f"${{{_VARIABLE}}}"}.get(here, f'"${_VARIABLE}"'))
            continue
        made.append(token)
        if here == "'":
            if token.endswith("'"):
                inside.pop()
        elif token == here or (here == "(" and token == ")"):
            inside.pop()
        elif token in ("`", "$(") or (token in ("'", '"', "(") and here != '"'):
            inside.append(token[-1])
    return "".join(made)


def _communicate(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bytes]:
    """Standard output and error. Raises TimeoutExpired after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        try:
            return process.communicate(timeout=max(0.0, min(_WAKE, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise


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
            wanted = "--metric-key says which value to take" if key is None else f"--metric-key '{key}' is not in it"
            raise MetricError(f"--metric-command printed JSON; {wanted}; its keys are {names}")
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MetricError(f"--metric-command ended with '{line[:80]}', which is no number ({command})")
    return _finite(float(value), "--metric-command")


def _number(text: str) -> float | None:
    """A number in another form than JSON, such as `.97`, which bc prints, or `nan`."""
    try:
        return float(text)
    except ValueError:
        return None


def _finite(value: float, source: str) -> float:
    if not math.isfinite(value):
        raise MetricError(f"{source} gave {value}; it must be a finite number")
    return value
