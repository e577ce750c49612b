"""The main job on real models: size, average bits, fidelity, accuracy, and time against float, in one run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.timing import ratios, session, table, versions
from mixquant_onnx.data.files import load_data
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent


def sources(data_root: Path | None) -> dict[str, Path]:
    """Name -> model; those of the data folder first, then fetched ones that it does not have."""
    found: dict[str, Path] = {}
    for folder in (ROOT / "models", data_root, ROOT / "fetched"):
        for path in sorted(folder.glob("*/model.onnx")) if folder and folder.is_dir() else ():
            found.setdefault(path.parent.name, path)
    return {name: path for name, path in found.items() if not (name == "ppocr_rec" and "ppocrv4_rec" in found)}


def figure(name: str, model: Path, data_root: Path | None) -> float | None:
    """What the data folder's evaluate.py, or the labels of models/, say of `model`."""
    labelled = ROOT / "models" / name / "eval.npz"
    if labelled.is_file():
        data = np.load(labelled)
        output = session(str(model), 2).run(None, {"input": data["input"]})[0]
        return float((output.argmax(1) == data["labels"]).mean())
    if data_root is None or not (data_root / name).is_dir():
        return None
    command = [sys.executable, str(data_root / "evaluate.py"), name, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"note: no figure for {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return float(json.loads(done.stdout)["value"])


def _feed(name: str, path: Path, data_root: Path | None) -> dict[str, np.ndarray]:
    """One row of calibration data where there is any, else generated."""
    model = onnx.load(path)
    calibration = next(
        (f for f in (ROOT / "models" / name, (data_root or ROOT) / name) if (f / "calib.npz").is_file()), None
    )
    if calibration is not None:
        feed = dict(load_data(calibration / "calib.npz", None, model_inputs(model)).feeds[0])
        if "state" not in feed:
            return {key: value[:1] for key, value in feed.items()}
        return feed
    data = usable_data(Session(model), model)
    assert data is not None, name
    return dict(data.feeds[0])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench models", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--qem", type=float, default=2.0)
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args(arguments)
    data_root = None if args.data_root is None else Path(args.data_root)
    print(f"# Real models at QEM {args.qem:g}\n\n{versions()}; time: one row of input, medians, interleaved.\n")
    if data_root is None:
        print("note: no --data-root and no MIXQUANT_DATA: figures of its labelled data are skipped\n")
    if not (ROOT / "fetched").is_dir():
        print("note: no fetched/: run tools/fetch_models for the pretrained models\n")
    rows: list[list[object]] = []
    for name, path in sources(data_root).items():
        if args.only and name not in args.only.split(","):
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.onnx"
            started = time.perf_counter()
            try:
                result = mq.quantize(path, out, qem=args.qem)
            except mq.UnchangedError as reason:
                rows.append([name, f"{path.stat().st_size / 1e6:.2f}", f"unchanged: {str(reason).split(': ', 1)[1]}"])
                continue
            seconds = time.perf_counter() - started
            feed = _feed(name, path, data_root)
            share = ratios([partial(session(str(file)).run, None, feed) for file in (path, out)])[0]
            figures = [figure(name, file, data_root) for file in (path, out)]
            proof = result.verification
            assert proof is not None
            reference = "-" if proof.reference_sqnr_db is None else f"{proof.reference_sqnr_db:.0f}"
            rows.append(
                [name, f"{result.nbytes_before / 1e6:.2f}", f"{result.nbytes_after / 1e6:.2f}",
                 f"{result.nbytes_after / result.nbytes_before:.1%}", f"{result.average_bits:.2f}",
                 *(["-" if not proof.quality else f"{proof.quality[k].sqnr_db or 0:.1f}" for k in (0, 1)]), reference,
                 *("-" if f is None else f"{f:.4f}" for f in figures), f"{share:.2f}", f"{seconds:.1f} s"]
            )  # fmt: skip
    header = ["model", "MB", "MB after", "size", "bits", "SQNR exact, dB", "SQNR deployed, dB", "reference, dB"]
    print(table([*header, "float figure", "figure", "time / float", "run"], rows))
    return 0
