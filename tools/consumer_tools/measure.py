"""Give files to a consumer, in its own process, and read what came of each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peer_tools.processes import reason, run

from consumer_tools.catalog import HERE, Consumer
from consumer_tools.files import File, decibels

SECONDS = 1800
TELLING = ("No conversion rule", "Unimplemented", "nsupported", "not supported", "nknown", "No impl", "Node [")
DIFFERS = (
    (r"(DequantizeLinear|ZeroPoint)[2-8]", r"\1N"),
    (r"Translating node #\d+ \"[^\"]*\" ", ""),
    (r" \(\d+ vs\. \d+\)", ""),
    (r"OpenCV\([\d.]+\) \S+ (error: )?", ""),
    (r":\(onnx_node!\S*", ""),
    (r" \([\w.]+/\)", ""),
    (r"^> |^-- |in function '\w+'", ""),
)
"""What differs from file to file, or tells nothing to a reader, in reasons."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """`decibels` is None where it did not run; then `failure` says at which stage and why."""

    consumer: Consumer
    file: File
    release: str = ""
    decibels: float | None = None
    nbytes: int | None = None
    failure: str | None = None


def measure(consumer: Consumer, program: Path, folder: Path, files: Sequence[File], rows: Path) -> list[Result]:
    """A result for each file; after a crash the process starts again behind the file that ended it."""
    key, left, results = HERE.joinpath(consumer.script).stem, list(files), []
    while left:
        job = {"files": [str(file.path) for file in left], "rows": str(rows), "key": key, "folder": str(folder)}
        order = rows.parent / f"{key}.job.json"
        order.write_text(json.dumps(job), encoding="utf8")
        done = run([program, HERE / consumer.script, order], SECONDS)
        count = sum(_result_of(file, key).is_file() for file in left)
        if count == 0:
            why = done.failure or "it told no result"
            return results + [Result(consumer=consumer, file=file, failure=f"does not start: {why}") for file in left]
        results += [_read(consumer, file, key, done.failure) for file in left[:count]]
        left = left[count:]
    return results


def _result_of(file: File, key: str) -> Path:
    return file.path.parent / f"{file.path.name}.{key}.json"


def _read(consumer: Consumer, file: File, key: str, ended: str | None) -> Result:
    found = json.loads(_result_of(file, key).read_text(encoding="utf8"))
    base = Result(consumer=consumer, file=file, release=found["release"])
    if found["stage"] != "done":
        why = _first(found["error"]) if found["error"] else f"the process ended ({ended})"
        verb = "load" if found["stage"] == "load" else "run"
        return Result(consumer=consumer, file=file, release=base.release, failure=f"does not {verb}: {why}")
    output = np.load(f"{file.path}.{key}.npy").reshape(-1)
    if output.size != file.exact.size or not np.isfinite(output).all():
        return Result(
            consumer=consumer, file=file, release=base.release, failure="the output has another shape, or NaN"
        )
    return Result(
        consumer=consumer, file=file, release=base.release, nbytes=found["nbytes"],
        decibels=decibels(file.exact.reshape(-1), output),
    )  # fmt: skip


def _first(error: str) -> str:
    """The line of an error that tells the most, fit for a table."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = [line for word in TELLING for line in lines if word in line]
    line = (told or lines)[0]
    for pattern, general in DIFFERS:
        line = re.sub(pattern, general, line)
    return reason(line)
