"""Runs in a runtime's own environment: each file of a job is loaded and run, and the result is written beside it.

`load(path, rows)` gives a function that returns the first output for all rows of the only input. The result of FILE is
FILE.KEY.json with `stage` (load, run or done), `error`, `release` and `nbytes` (of a rewritten file), and FILE.KEY.npy.
A result that says `load` or `run` without an error is of a process that ended there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]


def serve(load: Callable[[str, Any], Run], package: str, nbytes: Callable[[str], int] | None = None) -> None:
    """Take the job that the command line names: `files`, `rows` (a .npy file) and `key`."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
    rows = np.load(job["rows"])
    for file in job["files"]:
        result: dict[str, Any] = {"stage": "load", "error": None, "release": version(package), "nbytes": None}
        base = f"{file}.{job['key']}"
        _write(base, result)
        try:
            run = load(file, rows)
            _write(base, result | {"stage": "run"})
            result["stage"] = "run"
            np.save(f"{base}.npy", np.asarray(run(), np.float32))
            result |= {"stage": "done", "nbytes": None if nbytes is None else nbytes(file)}
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
        _write(base, result)


def _write(base: str, result: dict[str, Any]) -> None:
    Path(f"{base}.json").write_text(json.dumps(result), encoding="utf8")
