"""What a run tells of its own quality against the truth on rows that it never saw, on the labelled data's models."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

import mixquant_onnx as mq
from benchmarks.accuracy import model_files
from benchmarks.timing import table, versions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.files import load_data
from mixquant_onnx.data.signature import model_inputs
from mixquant_onnx.runtime import Feed, Session
from mixquant_onnx.verification.quality import measure


class _Recorder:
    """A session that keeps what it is fed with, for an evaluation that makes its own inputs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.feeds: list[Feed] = []

    def run(self, names: list[str] | None, feed: Feed) -> list[Any]:
        self.feeds.append({name: np.array(array) for name, array in feed.items()})
        outputs = self._session.run(feed)
        return outputs if names is None else [outputs[self._session.outputs.index(name)] for name in names]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self._session.inputs]


def _fresh(name: str, session: Session, root: Path, limit: int) -> list[Feed]:
    """The feeds of the evaluation of `name` on its first `limit` samples."""
    spec = importlib.util.spec_from_file_location("evaluate", root / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recorder = _Recorder(session)
    getattr(module, name)(recorder, limit)
    return recorder.feeds


def _rows(data: Data, count: int) -> list[Feed]:
    """The first `count` rows; an input without an axis of that many is shared by all."""
    (feed,) = data.feeds
    most = max(len(a) for a in feed.values() if a.ndim)
    return [{n: a.take(range(count), a.shape.index(most)) if most in a.shape else a for n, a in feed.items()}]


def _row(name: str, path: Path, data: Data, count: int, bits: int, fresh: list[Feed]) -> list[object]:
    result = mq.quantize(path, data=_rows(data, count), bits=bits)
    proved = result.verification
    assert proved is not None and proved.deployed is not None
    told = proved.deployed
    before, after = Session(onnx.load(path)), Session(result.model)
    axes = {o.name: 1 for o in told.outputs if o.decisions is not None}
    true = measure("deployed", [before.run(f) for f in fresh], [after.run(f) for f in fresh], before.outputs, axes)
    assert told.sqnr_db is not None and true.sqnr_db is not None
    kind = "in sample" if proved.in_sample else "rows held back"
    return [
        name,
        count,
        bits,
        kind,
        f"{told.sqnr_db:.1f}",
        f"{true.sqnr_db:.1f}",
        f"{told.sqnr_db - true.sqnr_db:+.1f}",
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench told", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--rows", default="32,64,256", help="rows given with --data; more than there are: all, once")
    parser.add_argument("--bits", default="3,4")
    parser.add_argument("--limit", type=int, default=200, help="samples of the evaluation to compare on")
    args = parser.parse_args(arguments)
    if args.data_root is None:
        print("told needs --data-root or MIXQUANT_DATA: a folder of labelled data", file=sys.stderr)
        return 2
    root = Path(args.data_root)
    rows = []
    for name, path in model_files(root).items():
        if args.only and name not in args.only.split(","):
            continue
        model = onnx.load(path)
        data = load_data(root / name / "calib.npz", None, model_inputs(model))
        there = max(len(a) for a in data.feeds[0].values() if a.ndim)
        fresh = _fresh(name, Session(model), root, args.limit)
        for count in sorted({min(int(n), there) for n in args.rows.split(",")}):
            for bits in (int(b) for b in args.bits.split(",")):
                rows.append(_row(name, path, data, count, bits, fresh))
                print(*rows[-1], file=sys.stderr, flush=True)
    print(f"# Told and true\n\n{versions()}\n")
    print(f"`--bits B --data`: output SQNR in dB of the worst part, told and on {args.limit} samples never seen.\n")
    print(table(["model", "rows", "bits", "told of", "told, dB", "true, dB", "difference"], rows))
    print(f"\nmean difference {np.mean([float(str(r[-1])) for r in rows]):+.2f} dB")
    return 0
