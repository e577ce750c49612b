"""The command without data: what it makes of labelled models, told and true, with proxy inputs, the rule's floor, and
without either."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.models import ROOT, figure
from benchmarks.timing import table, versions
from mixquant_onnx.data.dataset import Data, batched
from mixquant_onnx.data.files import load_data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.split import with_axes
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.runtime.session import Session

WAYS: Mapping[str, Mapping[str, Any]] = {
    "noise, the letter of the rule": {"data_free": True, "rule": "paper"},
    "noise, the safe rule": {"data_free": True},
    "proxies, the letter of the rule": {"rule": "paper"},
    "proxies, the safe rule (default)": {},
}

LOWER_IS_BETTER = ("tinygpt_bytes",)


def _rows(name: str, model: onnx.ModelProto, root: Path) -> Data | None:
    """Rows of the model's own, which no run of this benchmark sees."""
    for file in (root / name / "calib.npz", ROOT / "models" / name / "calib.npz"):
        if file.is_file():
            data = with_axes(Session(model), load_data(file, None, model_inputs(model)))
            return batched(data, 16)
    return None


def _decibels(noise: float) -> float:
    return float("inf") if noise == 0 else -10 * float(np.log10(noise))


def _row(name: str, path: Path, way: str, root: Path, float_figure: float | None, folder: Path) -> list[object]:
    model, out = onnx.load(path), folder / "out.onnx"
    started = time.process_time()
    made = mq.quantize(path, out, **WAYS[way])
    seconds = time.process_time() - started
    rows, proof = _rows(name, model, root), made.verification
    true = None if rows is None else relative_noise(*(run_all(Session(m), rows) for m in (model, made.model)))
    told = None if proof is None or proof.deployed is None else proof.deployed.mean_sqnr_db
    value = figure(name, out, root)
    loss = None
    if value is not None and float_figure:
        loss = (value / float_figure - 1) * (1 if name in LOWER_IS_BETTER else -1)
    return [
        name, way, f"{made.nbytes_after / made.nbytes_before:.1%}", f"{made.average_bits:.2f}",
        "-" if told is None else f"{told:.1f}", "-" if true is None else f"{_decibels(true):.1f}",
        "-" if value is None else f"{value:.4f}", "-" if loss is None else f"{loss:+.1%}", f"{seconds:.0f}",
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench data_free", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args(arguments)
    if args.data_root is None:
        print("data_free needs --data-root or MIXQUANT_DATA: a folder of labelled data", file=sys.stderr)
        return 2
    root = Path(args.data_root)
    paths = [*sorted(root.glob("*/calib.npz")), *sorted((ROOT / "models").glob("*/calib.npz"))]
    names = [p.parent.name for p in paths if not args.only or p.parent.name in args.only.split(",")]
    print(f"# Without data\n\n{versions()}\n")
    print(
        "`mixquant-onnx IN OUT` (QEM 2) and nothing else, in four ways. Told: SQNR in dB that the run prints, mean\n"
        "over parts, on proxy inputs or noise; true: the same on rows of the model's own, which the run has not seen.\n"
        "Loss: of the figure, relative to float.\n"
    )
    rows: list[list[object]] = []
    for name in names:
        path = next(
            (
                f / name / "model.onnx"
                for f in (root, ROOT / "models", ROOT / "fetched")
                if (f / name / "model.onnx").is_file()
            ),
            None,
        )
        if path is None:
            continue
        float_figure = figure(name, path, root)
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                rows.append(_row(name, path, way, root, float_figure, Path(folder)))
                print(*rows[-1], file=sys.stderr, flush=True)
    print(table(["model", "way", "size", "bits", "told, dB", "true, dB", "figure", "loss", "CPU s"], rows))
    for way in WAYS:
        own = [r for r in rows if r[1] == way]
        sizes = np.mean([float(str(r[2]).rstrip("%")) for r in own])
        losses = [float(str(r[7]).rstrip("%")) for r in own if r[7] != "-"]
        if losses:
            print(f"\n{way}: mean size {sizes:.1f} %, largest loss {max(losses):+.1f} %")
    return 0
