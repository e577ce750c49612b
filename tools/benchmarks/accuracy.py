"""Accuracy per byte on labelled data: the smallest file with at most 1 % loss, one command a model; and the output's
SQNR at the same average bits against uniform bits and the layer rule."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Container
from pathlib import Path

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.rule import smallest_qem
from benchmarks.timing import table, versions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.files import load_data
from mixquant_onnx.data.split import PROMISE_SHARE, split_data
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.planning.error_table import ErrorTable
from mixquant_onnx.planning.plan import Plan
from mixquant_onnx.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent

PEERS = {
    "resnet20_cifar10": "0.251 MB", "silero_vad": "0.819 MB", "tinygpt_bytes": "0.628 MB", "magika": "0.439 MB",
    "ppocrv4_rec": "2.920 MB", "efficientnet_lite0": "4.849 MB", "minilm_l6": "20.074 MB",
}  # fmt: skip
"""The smallest file with at most 1 % loss among the others, from docs/research/peers.md (tools/peers --write)."""

LOWER_IS_BETTER = ("tinygpt_bytes",)


def model_files(root: Path, names: Container[str] = PEERS) -> dict[str, Path]:
    found = {path.name: path / "model.onnx" for path in sorted(root.iterdir()) if (path / "calib.npz").is_file()}
    return {n: p if p.is_file() else ROOT / "fetched" / n / "model.onnx" for n, p in found.items() if n in names}


def _goal(name: str, model: Path, root: Path, out: Path) -> list[object]:
    """One run of the command line; the row of the table."""
    command = [
        sys.executable, "-m", "mixquant_onnx", str(model), str(out), "--max-drop", "1%", "--metric-key", "value",
        "--metric-command", f"{sys.executable} {root / 'evaluate.py'} {name} {{model}}",
        "--data", str(root / name / "calib.npz"),
        *(["--lower-is-better"] if name in LOWER_IS_BETTER else []),
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    text = " ".join(done.stdout.split())
    tried = re.findall(r"([\d.]+) bits a weight, cost ([\w-]+): (\d+) bytes, value ([-\d.e]+): (kept|not kept)", text)
    reference = re.search(r"float: (\d+) bytes, value ([\d.]+)", text)
    kept = [t for t in tried if t[4] == "kept"]
    if done.returncode != 0 or reference is None or not kept:
        return [name, "-", "-", PEERS[name], f"exit {done.returncode}: {done.stderr.strip()[:80]}"]
    bits, cost, nbytes, figure, _ = min(kept, key=lambda t: int(t[2]))
    return [
        name, f"{int(reference[1]) / 1e6:.2f}", reference[2], PEERS[name], f"{int(nbytes) / 1e6:.3f}", figure, bits,
        cost, len(tried), f"{seconds:.0f} s",
    ]  # fmt: skip


def _sqnr(model: onnx.ModelProto, data: Data, reference: list[list[np.ndarray]]) -> float:
    session = Session(model)
    noise = relative_noise(reference, [session.run(feed) for feed in data.feeds])
    return float("inf") if noise == 0 else -10 * float(np.log10(noise))


def _curve(name: str, model: Path, calibration: Path, widths: list[int], given: bool) -> list[list[object]]:
    """SQNR on held-back data at the size of uniform bits: uniform, the rule, ours; calibrated or data-free."""
    loaded = onnx.load(model)
    session = Session(loaded)
    parts = split_data(
        session, load_data(calibration, None, model_inputs(loaded)), wants_selection=False, share=PROMISE_SHARE
    )
    fit, held = parts.fitting, parts.evaluation
    reference = [session.run(feed) for feed in held.feeds]
    errors = mq.inspect(model, method="mse", data_free=True).table
    elements = sum(e.elements for e in errors.values())
    rows = []
    for bits in widths:
        uniform = {n: next(c for c in e.candidates if c.scheme.bits == bits) for n, e in errors.items()}
        average = 8 * sum(c.nbytes for c in uniform.values()) / elements
        rule = _rule(errors, average * elements / 8)
        data = {"data": list(fit.feeds), "eval_data": list(held.feeds)} if given else {}
        plainly = {"verify": False, "rounding": "nearest", "data_free": True}
        nearest = [
            _sqnr(mq.apply_plan(model, Plan(sites=plan), **plainly).model, held, reference)
            for plan in ({n: c.scheme for n, c in uniform.items()}, rule)
        ]
        ours = [
            _sqnr(mq.quantize(model, verify=False, **chosen, **data).model, held, reference)
            for chosen in ({"bits": bits}, {"avg_bits": average + 1e-6})
        ]
        values = (*nearest, *ours, ours[1] - nearest[0])
        rows.append([name, bits, f"{average:.2f}", *(f"{v:.1f}" for v in values)])
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def _rule(errors: ErrorTable, limit: float) -> dict[str, Scheme]:
    """The layer rule at the smallest QEM that takes at most `limit` bytes."""

    def fits(chosen: dict[str, Scheme]) -> bool:
        return sum(next(c.nbytes for c in errors[n].candidates if c.scheme == s) for n, s in chosen.items()) <= limit

    return smallest_qem(errors, fits, 200)


def _calibration(name: str, root: Path) -> Path:
    """The calibration data of a model of the data folder or of models/."""
    return next(f / name / "calib.npz" for f in (root, ROOT / "models") if (f / name / "calib.npz").is_file())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench accuracy", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--bits", default="3,4,5", help="average bits of the second table; empty: leave it out")
    parser.add_argument("--data-free", action="store_true", help="of the second table only the half without data")
    parser.add_argument("--no-goals", action="store_true", help="leave the first table out")
    args = parser.parse_args(arguments)
    if args.data_root is None:
        print("accuracy needs --data-root or MIXQUANT_DATA: a folder of labelled data", file=sys.stderr)
        return 2
    root = Path(args.data_root)
    models = {n: p for n, p in model_files(root).items() if not args.only or n in args.only.split(",")}
    trained = {p.name: p / "model.onnx" for p in sorted((ROOT / "models").glob("*")) if (p / "calib.npz").is_file()}
    trained = {n: p for n, p in trained.items() if not args.only or n in args.only.split(",")}
    print(f"# Accuracy per byte\n\n{versions()}\n")
    if not args.no_goals:
        print("`--max-drop 1% --metric-command 'evaluate.py NAME {model}' --data calib.npz`, one command a model.\n")
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for name, path in models.items():
                rows.append(_goal(name, path, root, Path(folder) / "out.onnx"))
                print(*rows[-1], file=sys.stderr, flush=True)
        header = ["model", "float MB", "float", "best of others", "MB", "figure", "bits", "cost", "tries", "time"]
        print(table(header, rows))
    widths = [int(b) for b in args.bits.split(",") if b]
    for given in ((False,) if args.data_free else (True, False)) if widths else ():
        how = "with `--data`" if given else "data-free"
        print(f"\nOutput SQNR in dB on held-back data at the bytes of uniform bits, {how}.\n")
        curves = [r for n, p in (models | trained).items() for r in _curve(n, p, _calibration(n, root), widths, given)]
        header = ["model", "bits", "with scales", "uniform", "rule", "uniform, our rounding", "budget", "gain"]
        print(table(header, curves))
        for bits in widths:
            gains = [[float(r[6]) - float(r[k]) for k in (3, 4, 5)] for r in curves if r[1] == bits]
            mean = np.mean(gains, axis=0)
            print(f"\n{bits} bits, mean gain: {mean[0]:.1f} dB on uniform, {mean[1]:.1f} on the rule, {mean[2]:.1f} on "
                  f"uniform with our rounding; least on uniform {min(g[0] for g in gains):.1f}")  # fmt: skip
    return 0
