"""What the defaults rest on: the scope of QEM (one layer or the whole model), and the granularity of the scales, by
size and by output SQNR on data that the search did not see."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.models import ROOT, sources
from benchmarks.timing import table, versions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.files import load_data
from mixquant_onnx.data.noise import usable_data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.data.split import PROMISE_SHARE, split_data
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.metrics import relative_noise
from mixquant_onnx.runtime.session import Session

SCOPES = ("layer", "model")
GRANULARITIES = ("tensor", "channel", "block:128", "block:64", "block:32", "auto")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A model, what to calibrate with (None: generated inputs only), and float outputs to compare with."""

    path: Path
    fit: Data | None
    held: Data
    reference: list[list[FloatArray]]

    def sqnr(self, model: onnx.ModelProto) -> float:
        noise = relative_noise(self.reference, run_all(Session(model), self.held))
        return float("inf") if noise == 0 else -10 * float(np.log10(noise))


def case(path: Path, data_root: Path | None) -> Case | None:
    """None where no data was found on which the model runs, or where there is nothing to quantize."""
    if not mq.inspect(path).plan.sites:
        return None
    model = onnx.load(path)
    session = Session(model)
    for folder in (path.parent, (data_root or ROOT) / path.parent.name):
        if (folder / "calib.npz").is_file():
            data = load_data(folder / "calib.npz", None, model_inputs(model))
            parts = split_data(session, data, wants_selection=False, share=PROMISE_SHARE)
            held = parts.evaluation
            return Case(path=path, fit=parts.fitting, held=held, reference=run_all(session, held))
    held_ = usable_data(session, model)
    return None if held_ is None else Case(path=path, fit=None, held=held_, reference=run_all(session, held_))


def _scopes(cases: dict[str, Case], multipliers: Sequence[float]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, one in cases.items():
        for qem in multipliers:
            made = [mq.quantize(one.path, scope=scope, qem=qem, verify=False) for scope in SCOPES]
            sizes, ratios = [m.nbytes_after for m in made], [one.sqnr(m.model) for m in made]
            rows.append([name, f"{qem:g}", *(f"{s / 1e6:.3f}" for s in sizes), *(f"{r:.1f}" for r in ratios),
                         f"{sizes[1] / sizes[0]:.3f}", f"{ratios[1] - ratios[0]:+.1f}"])  # fmt: skip
            print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def _granularities(cases: dict[str, Case], widths: Sequence[float]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, one in cases.items():
        for bits in widths:
            found: list[str] = []
            for granularity in GRANULARITIES:
                given = {} if one.fit is None else {"data": list(one.fit.feeds), "eval_data": list(one.held.feeds)}
                try:
                    made = mq.quantize(one.path, avg_bits=bits, granularity=granularity, verify=False, **given)
                    found.append(f"{one.sqnr(made.model):.1f}")
                except mq.OptionError:
                    found.append("-")
            rows.append([name, f"{bits:g}", "yes" if one.fit is not None else "no", *found])
            print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench choices", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--qem", default="2,16,256")
    parser.add_argument("--bits", default="3,4", help="average bits of the table of granularities; empty: leave it out")
    args = parser.parse_args(arguments)
    root = None if args.data_root is None else Path(args.data_root)
    paths = {n: p for n, p in sources(root).items() if not args.only or n in args.only.split(",")}
    found = {name: case(path, root) for name, path in paths.items()}
    cases = {name: one for name, one in found.items() if one is not None}
    print(f"# What the defaults rest on\n\n{versions()}\n")
    print("Output SQNR in dB on rows that were not calibrated with (generated inputs where there are none).\n")
    print("## One QEM for each layer, or for the whole model\n\nData-free, defaults otherwise.\n")
    rows = _scopes(cases, [float(q) for q in args.qem.split(",") if q])
    print(table(["model", "QEM", "layer, MB", "model, MB", "layer, dB", "model, dB", "size ratio", "gain, dB"], rows))
    widths = [float(b) for b in args.bits.split(",") if b]
    if widths:
        print("\n## Granularity at equal bytes\n\n`--avg-bits`, with `--data` where there is some.\n")
        print(table(["model", "bits", "data", *GRANULARITIES], _granularities(cases, widths)))
    return 0
