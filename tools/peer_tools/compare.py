"""What other quantizers make of the models of docs/research/accuracy.md; --write puts the tables there too."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import versions

from peer_tools import report
from peer_tools.catalog import ONNXSIM, PEERS, Mode, Peer
from peer_tools.environments import python_of
from peer_tools.measure import Task, all_modes, evaluate, quantize
from peer_tools.results import Float, Result, better

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = (
    "efficientnet_lite0", "ppocrv4_rec", "minilm_l6", "magika", "silero_vad", "tinygpt_bytes", "resnet20_cifar10",
)  # fmt: skip
LOWER_IS_BETTER = ("tinygpt_bytes",)
SIMPLIFY = Mode(label="no quantization", options={"flags": ["--target-opset", "21"]})
HOW = """Other quantizers on the models of [accuracy.md](accuracy.md), without data. Each mode is run on the file as it
is and on what onnxsim (opset 21, no quantization) makes of it; the better of the two is shown. MB: all files written.
The figure is that of the labelled data's evaluate.py with the onnxruntime above; loss is relative to float. onnxsim is
run a second time on its own output, to drop the float weights it leaves there. A file that is not at least 2 %
smaller than float ("unchanged", "larger than float") was not evaluated.

The smallest file with at most 1 % relative loss:
"""


def _sources(name: str, model: Path, folder: Path, seconds: float) -> list[tuple[str, Path]]:
    """The model as it is, and simplified where that works."""
    python, failure = python_of(ONNXSIM)
    out = folder / f"{name}.onnx"
    failure = failure or quantize(ONNXSIM, SIMPLIFY, python, model, out, seconds)
    return [("as is", model)] + ([("simplified", out)] if failure is None else [])


def _model(name: str, root: Path, peers: list[Peer], seconds: float) -> tuple[Float, list[Result]] | None:
    """The float model and one result for each mode; None where the model or its figure is missing."""
    model = next(
        (f / name / "model.onnx" for f in (root, ROOT / "fetched") if (f / name / "model.onnx").is_file()), None
    )
    figure, why = (None, "no model") if model is None else evaluate(name, root / "evaluate.py", model, seconds)
    if model is None or figure is None:
        print(f"note: {name} is skipped: {why}", file=sys.stderr)
        return None
    reference = Float(nbytes=model.stat().st_size, figure=figure, lower_is_better=name in LOWER_IS_BETTER)
    task = Task(name=name, evaluate=root / "evaluate.py", seconds=seconds, reference=reference)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(name, model, Path(folder), seconds)
        for peer in peers:
            python, failure = python_of(peer)
            if failure is not None:
                note = f"does not install: {failure}"
                results += [Result(peer=peer.name, mode=m.label, source="-", note=note) for m in peer.modes]
                continue
            for found in all_modes(peer, python, task, sources):
                results.append(better(found[0], found[-1]))
    return reference, results


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/peers", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="models, separated by commas")
    parser.add_argument("--peers", help=f"of {', '.join(p.name for p in PEERS)}, separated by commas")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for each step of each run")
    parser.add_argument("--write", action="store_true", help="write docs/research/peers.md too")
    args = parser.parse_args(arguments)
    if args.data_root is None:
        print("peers needs --data-root or MIXQUANT_DATA: a folder of labelled data", file=sys.stderr)
        return 2
    peers = [p for p in PEERS if not args.peers or p.name in args.peers.split(",")]
    names = [n for n in MODELS if not args.only or n in args.only.split(",")]
    measured = {n: _model(n, Path(args.data_root), peers, args.timeout) for n in names}
    found = {n: m for n, m in measured.items() if m is not None}
    tools = ", ".join(p.version for p in peers if p.name != "onnxruntime")
    text = f"# Other quantizers\n\n{versions()}; {tools}.\n\n{HOW}\n{report.summary(found)}\n\n{report.details(found)}"
    print(text)
    if args.write:
        shown = " ".join(argument for argument in arguments if "/" not in argument)
        done = f"{text}\nWritten by `tools/peers {shown}`.\n"
        (ROOT / "docs" / "research" / "peers.md").write_text(done, encoding="utf8")
    return 0
