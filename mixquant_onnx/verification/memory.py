"""Memory of a session, measured in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from mixquant_onnx.model import files as model_io
from mixquant_onnx.runtime.session import Feed

_SECONDS = 600
"""Longest time that loading and one run may take."""

_CHILD = """
import json, sys
import numpy, onnxruntime

def resident(key="VmRSS"):
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(key))

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
feed = dict(numpy.load(sys.argv[2]))
before = resident()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, feed)
held = resident() - before
peak = resident("VmHWM") - before
print(json.dumps([held, max(peak, held)]))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Resident memory that a session adds to a process.

    Attributes:
        held: Bytes after a run on one sample.
        peak: Most bytes at any time, while it is loaded too.
    """

    held: int
    peak: int


def memory(model: ModelProto | Path, feed: Feed) -> Memory | None:
    """Load and run a model in a new process, under ONNX Runtime's default options with one thread.

    Args:
        model: The model.
        feed: A batch of numbers.

    Returns:
        Its memory; None where that cannot be measured: on systems other than Linux, or if the model does not run.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        path = model if isinstance(model, Path) else model_io.save(model, Path(folder) / "m.onnx", False, "m.data")[0]
        given: dict[str, Any] = {name: np.asarray(value) for name, value in feed.items()}
        np.savez(Path(folder) / "feed.npz", **given)
        command = [sys.executable, "-c", _CHILD, str(path), str(Path(folder) / "feed.npz")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        held, peak = json.loads(done.stdout.splitlines()[-1])
        return Memory(held=int(held), peak=int(peak))
    return None


def text_of(before: Memory, after: Memory) -> str:
    """One line on the memory of two models.

    Args:
        before: Of the float model.
        after: Of the written one.

    Returns:
        Text without a line break.
    """
    held, peak = (f"{new / 1e6:.0f} MB, {new / max(old, 1):.2f} of float's"
                  for new, old in ((after.held, before.held), (after.peak, before.peak)))  # fmt: skip
    return f"{held}, after a run; peak {peak}"
