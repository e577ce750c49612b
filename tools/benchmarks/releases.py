"""The fused form and the folded one (--min-ort 1.20) on older releases of onnxruntime: time and fidelity."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.timing import table
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent
RELEASES = ("1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.28.0", "1.31.1", "1.32.0")
MODELS = ("minilm_l6", "ddddocr")

_CHILD = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
feed = dict(np.load(sys.argv[1]))
sessions = []
for path in sys.argv[2:]:
    try:
        sessions.append(onnxruntime.InferenceSession(path, options))
    except Exception as error:
        sessions.append(str(error)[:90])
reference = sessions[0].run(None, feed)[0]
found = []
for session in sessions[1:]:
    if isinstance(session, str):
        found.append(None)
        continue
    output = session.run(None, feed)[0]
    times = [[], []]
    for turn in range(9):
        for k, one in enumerate((sessions[0], session)):
            start = time.perf_counter()
            one.run(None, feed)
            times[k].append(time.perf_counter() - start)
    ratio = float(np.median(times[1]) / np.median(times[0]))
    noise = float(((reference - output) ** 2).sum())
    found.append([ratio, float(10 * np.log10((reference**2).sum() / noise))])
print(json.dumps(found))
"""


def _python(release: str) -> Path:
    folder = ROOT / f".venv-ort-{release}"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        wanted = [f"onnxruntime=={release}", "numpy<2.4"]
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        (folder / ".ready").touch()
    return folder / "bin" / "python"


def _cell(found: list[float] | None) -> str:
    return "does not load" if found is None else f"{found[0]:.2f} ({found[1]:.1f} dB)"


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="tools/bench releases", description=__doc__).parse_args(arguments)
    print("# Older releases\n\nShare of float's time on the same release (SQNR of the first output), one thread.\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, list[str]] = {}
        for name in MODELS:
            path = ROOT / "fetched" / name / "model.onnx"
            if not path.is_file():
                print(f"note: {name} is skipped: run tools/fetch_models\n")
                continue
            model = onnx.load(path)
            data = usable_data(Session(model), model)
            assert data is not None
            feed = f"{folder}/{name}.npz"
            np.savez(feed, **data.feeds[0])
            files[name] = [feed, str(path), f"{folder}/{name}.fused.onnx", f"{folder}/{name}.folded.onnx"]
            mq.quantize(path, files[name][2], fused="always")
            mq.quantize(path, files[name][3], min_ort=(1, 20))
        for release in RELEASES:
            cells = []
            for name in files:
                command = [str(_python(release)), "-c", _CHILD, *files[name]]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                cells += [_cell(found) for found in json.loads(done.stdout)]
            rows.append([release, *cells])
    header = [f"{name}, {form}" for name in files for form in ("--fused always", "--min-ort 1.20")]
    print(table(["onnxruntime", *header], rows))
    return 0
