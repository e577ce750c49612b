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
from mixquant_onnx.model.signature import model_inputs
from mixquant_onnx.runtime.session import Feed, Session
from mixquant_onnx.verification.quality import Quality, quality_of


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


def _rows(data: Data, chosen: np.ndarray) -> list[Feed]:
    """Those of the `chosen` rows; an input without an axis of that many is shared by all."""
    (feed,) = data.feeds
    most = _count(data)
    return [{n: a.take(chosen, a.shape.index(most)) if most in a.shape else a for n, a in feed.items()}]


def _count(data: Data) -> int:
    return max(len(a) for a in data.feeds[0].values() if a.ndim)


def _true(before: Session, after: Session, feeds: list[Feed], told: Quality) -> float | None:
    axes = {o.name: 1 for o in told.outputs if o.decisions is not None}
    outputs = [[session.run(feed) for feed in feeds] for session in (before, after)]
    return quality_of("deployed", *outputs, before.outputs, axes).sqnr_db


def _row(name: str, path: Path, data: Data, count: int, bits: int, draws: int, evaluated: list[Feed]) -> list[object]:
    """The mean over `draws` of the rows that are given."""
    found: list[list[float]] = [[], [], []]
    kinds = set()
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(_count(data))
        result = mq.quantize(path, data=_rows(data, order[:count]), bits=bits)
        proved = result.verification
        assert proved is not None and proved.deployed is not None and proved.deployed.sqnr_db is not None
        kinds.add("in sample" if proved.in_sample else "held back")
        before, after = Session(onnx.load(path)), Session(result.model)
        left = [_rows(data, order[count:])] if _count(data) - count >= _FEWEST else []
        true = [_true(before, after, feeds, proved.deployed) for feeds in (evaluated, *left)]
        for column, value in zip(found, (proved.deployed.sqnr_db, *true), strict=False):
            column.append(float("nan") if value is None else value)
        if count == _count(data):
            break
    told = float(np.mean(found[0]))
    shown = [f"{np.mean(v):.1f} ({told - np.mean(v):+.1f})" if v else "-" for v in (found[2], found[1])]
    return [name, count, bits, len(found[0]), " and ".join(sorted(kinds)), f"{told:.1f}", *shown]


_FEWEST = 16
"""Rows that are left, below which nothing is told of them."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench told", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--rows", default="32,64,256", help="rows given with --data; more than there are: all, once")
    parser.add_argument("--bits", default="4")
    parser.add_argument("--draws", type=int, default=4)
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
        there = _count(data)
        fresh = _fresh(name, Session(model), root, args.limit)
        for count in sorted({min(int(n), there) for n in args.rows.split(",")}):
            for bits in (int(b) for b in args.bits.split(",")):
                rows.append(_row(name, path, data, count, bits, args.draws, fresh))
                print(*rows[-1], file=sys.stderr, flush=True)
    print(f"# Told and true\n\n{versions()}\n")
    print(
        "`--bits B --data` with some rows of calib.npz: output SQNR in dB of the worst part, as told and as it is (in"
    )
    print("brackets: told less true) on the rows that are left and on the evaluation's; means over draws.\n")
    print(table(["model", "rows", "bits", "draws", "told on", "told", "true, rows left", "true, evaluation"], rows))
    for column, name in ((-2, "rows left"), (-1, "evaluation")):
        found = [float(str(r[column]).split("(")[1].rstrip(")")) for r in rows if r[column] != "-"]
        if found:
            print(f"\n{name}: told less true {np.mean(found):+.2f} dB in the mean of {len(found)} rows")
    return 0
