"""Run one quantizer on one model and measure the file: bytes, whether stock onnxruntime loads it, and the figure."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peer_tools.catalog import Mode, Peer
from peer_tools.processes import run
from peer_tools.results import Float, Result

HERE = Path(__file__).resolve().parent
LOAD = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A model, how to evaluate it, and how long anything may take."""

    name: str
    evaluate: Path
    seconds: float
    reference: Float


def evaluate(name: str, script: Path, model: Path, seconds: float) -> tuple[float | None, str | None]:
    """(the figure, None) or (None, why there is none)."""
    done = run([sys.executable, script, name, model, "--threads", "1"], seconds)
    if done.failure is not None:
        return None, done.failure
    figure = float(json.loads(done.output.splitlines()[-1])["value"])
    return (figure, None) if math.isfinite(figure) else (None, f"the figure is {figure}")


def quantize(peer: Peer, mode: Mode, python: Path, model: Path, out: Path, seconds: float) -> str | None:
    """None, or why no file was written."""
    done = run([python, HERE / peer.script, json.dumps(dict(mode.options)), model, out], seconds)
    if done.failure is not None:
        return f"crashed: {done.failure}"
    return None if out.is_file() else "wrote nothing"


def measure(peer: Peer, mode: Mode, python: Path, task: Task, source: str, model: Path) -> Result:
    """The result of one run; a failure of any kind is one too."""
    result = Result(peer=peer.name, mode=mode.label, source=source)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        failure = quantize(peer, mode, python, model, out, task.seconds)
        if failure is not None:
            return replace(result, note=failure)
        nbytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        result = replace(result, nbytes=nbytes)
        loads = run([sys.executable, "-c", LOAD, out], task.seconds)
        note = task.reference.unchanged(nbytes) if loads.failure is None else f"does not load: {loads.failure}"
        if note is not None:
            return replace(result, note=note)
        figure, why = evaluate(task.name, task.evaluate, out, task.seconds)
    if figure is None:
        return replace(result, note=f"does not run: {why}")
    return replace(result, figure=figure, loss=task.reference.loss(figure))


def all_modes(peer: Peer, python: Path, task: Task, sources: Sequence[tuple[str, Path]]) -> list[list[Result]]:
    """For each mode a result for each source."""
    found = []
    for mode in peer.modes:
        results = [measure(peer, mode, python, task, source, model) for source, model in sources]
        for result in results:
            shown = (result.nbytes, result.figure, result.note)
            print(task.name, peer.name, mode.label, result.source, *shown, file=sys.stderr, flush=True)
        found.append(results)
    return found
