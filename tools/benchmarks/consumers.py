"""Other runtimes, and tools that rewrite models: what they make of the files of each target, at 2 to 8 bits."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from consumer_tools.catalog import CONSUMERS
from consumer_tools.environments import ROOT, folder_of, interpreter
from consumer_tools.files import FORMS, WIDTHS, File, make
from consumer_tools.measure import Result, measure
from consumer_tools.report import tables

from benchmarks.timing import versions

MODELS = ("digits_cnn", "digits_transformer")
ROWS = 16
_WHAT = """SQNR against the file's own meaning (ONNX Runtime with float activations) on {rows} rows of eval.npz, the
worse of {models}. Every weight has one width, by `--method mse --data-free`."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench consumers", description=__doc__)
    parser.add_argument("--only", help="names of consumers, separated by commas")
    parser.add_argument("--bits", default=",".join(str(bits) for bits in WIDTHS))
    args = parser.parse_args(arguments)
    chosen = [one for one in CONSUMERS if not args.only or one.name in args.only.split(",")]
    widths = [int(bits) for bits in args.bits.split(",")]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = np.load(ROOT / "models" / MODELS[0] / "eval.npz")["input"][:ROWS].astype(np.float32)
        np.save(Path(folder) / "rows.npy", rows)
        files: list[File] = []
        for name in MODELS:
            files += make(ROOT / "models" / name / "model.onnx", rows, Path(folder), FORMS, widths)
        for consumer in chosen:
            program, why = interpreter(consumer, folder_of(consumer))
            print(consumer.name, file=sys.stderr, flush=True)
            if program is None:
                results += [Result(consumer=consumer, file=f, failure=f"not installed: {why}") for f in files]
                continue
            results += measure(consumer, program, folder_of(consumer), files, Path(folder) / "rows.npy")
    print(f"# What other runtimes make of the files\n\n{_WHAT.format(rows=ROWS, models=' and '.join(MODELS))}")
    print(f"{versions()}.\n")
    print(tables(results))
    return 0
