"""Part 8: outputs load, run and agree on the releases of onnxruntime that docs/research/releases.md names.

Times and larger models: `tools/bench releases`, which also makes the environments that this part looks for.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from benchmarks.releases import RELEASES
from cases import feed_for

import mixquant_onnx as mq
from mixquant_onnx.export.targets.releases import releases_of
from reliability_checks.command import ROOT
from reliability_checks.reference import closeness
from reliability_checks.verdict import Failure, Part, Verdict

FORMS: Sequence[tuple[str, ...]] = (
    ("target=ort",), ("target=qdq",), ("fused=always",), ("optimize_for=memory",), ("granularity=block:32",),
)  # fmt: skip
LEAST_DB = 30.0
"""Against the installed release: older ones round activations inside MatMulNBits to 8 bits in ways of their own
(tests/test_releases.py)."""

_CHILD = """
import json, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    np.save(sys.argv[3], session.run(None, dict(np.load(sys.argv[2])))[0])
    print(json.dumps(None))
except Exception as error:
    print(json.dumps(str(error)[:200]))
"""


def python_of(release: str) -> Path:
    """Of the environment that `tools/bench releases` makes."""
    return ROOT / f".venv-ort-{release}" / "bin" / "python"


def cases(fast: bool) -> Sequence[str]:
    """Releases with a model and a width."""
    there = [release for release in RELEASES if python_of(release).exists()]
    widths = (4,) if fast else range(2, 9)
    return [f"{r}|{name}|{bits}" for r in there for name in ("digits_cnn", "digits_transformer") for bits in widths]


def skip() -> str | None:
    """Why no release can be tried."""
    return None if cases(True) else "no environment of an older release is there; `tools/bench releases` makes them"


def check(case: str, folder: Path) -> list[Verdict]:
    """Every form of one model at one width, on one release."""
    release, name, bits = case.split("|")
    model = onnx.load(ROOT / "models" / name / "model.onnx")
    np.savez(folder / "feed.npz", allow_pickle=False, **feed_for(model))
    found = []
    for form in FORMS:
        options = dict(one.split("=") for one in form)
        result = mq.quantize(model, folder / "q.onnx", bits=[int(bits)], min_ort=release, data_free=True, **options)  # type: ignore[arg-type]
        oldest = releases_of(result.rewritten.storages.values(), result.rewritten.opset[1]).loads_from
        newer = tuple(map(int, oldest.split("."))) > tuple(map(int, release.split(".")[:2]))
        wrong = _wrong(folder, python_of(release))
        outcome = f"{release}: " + ("promised for newer ones alone" if newer else "runs and agrees")
        failures = [] if newer or wrong is None else [Failure(kind="wrong", detail=f"{' '.join(form)}: {wrong}")]
        found.append(Verdict(case=case, outcome=outcome, failures=tuple(failures)))
    return found


def _wrong(folder: Path, python: Path) -> str | None:
    """What is wrong with q.onnx there; None where it gives what the installed release gives."""
    outputs: list[np.ndarray] = []
    for own in (python, Path(ROOT / ".venv" / "bin" / "python")):
        out = folder / f"out{len(outputs)}.npy"
        command = [str(own), "-c", _CHILD, str(folder / "q.onnx"), str(folder / "feed.npz"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = json.loads(done.stdout) if done.returncode == 0 and done.stdout else f"exit {done.returncode}"
        if told is not None:
            return f"{own}: {told}"
        outputs.append(np.load(out))
    decibels = closeness([outputs[1]], [outputs[0]])
    return None if decibels >= LEAST_DB else f"{decibels:.1f} dB against the installed release"


PART = Part(
    name="releases", title="outputs on older releases of onnxruntime", cases=cases, check=check, limit=300, skip=skip,
    memory=False,
)  # fmt: skip
