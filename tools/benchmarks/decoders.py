"""Decoders at the bytes of onnxruntime's MatMulNBitsQuantizer: divergence of the next token on held-out sequences."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from benchmarks.timing import table, versions
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.report.tokens import mean_text, share_text, token_data
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.latency import latency
from mixquant_onnx.verification.next_tokens import tokens_of_model
from mixquant_onnx.verification.token_quality import TokenQuality, token_quality

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK = 32
SMALLER = 0.8
LESS = 0.4
REFERENCES = ("RTN", "RTN with Gather", "k-quant, last and down at 8")
"""Whose bytes ours are compared at: plain rounding, the same with the embedding, and the best of the mixed recipes."""

Feed = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A model, token ids for calibration, and held-out ones."""

    name: str
    model: Path
    calibration: Feed
    held: Data


def decoders(root: Path | None) -> list[Decoder]:
    folders = [ROOT / "models" / "text_decoder", *([root / "tinygpt_bytes"] if root else [])]
    made = []
    for folder in (f for f in folders if (f / "model.onnx").is_file()):
        model = onnx.load(folder / "model.onnx")
        fit, held = (_ids(folder / f"{name}.npz") for name in ("calib", "eval"))
        held = held[:, : fit.shape[1]]
        feeds = tuple(feed_of(model, held[k : k + 8]) for k in range(0, len(held), 8))
        data = Data(feeds=feeds, labels=None)
        made.append(Decoder(name=folder.name, model=folder / "model.onnx", calibration=feed_of(model, fit), held=data))
    return made


def _ids(file: Path) -> np.ndarray:
    arrays = np.load(file)
    return np.asarray(arrays[next(n for n in arrays.files if n in ("ids", "input_ids"))]).astype(np.int64)


def feed_of(model: onnx.ModelProto, ids: np.ndarray, past: int = 0) -> Feed:
    """Inputs of a decoder for tokens that follow `past` others; keys and values of those are zeros."""
    rows, tokens = ids.shape
    feed: Feed = {}
    for value in model.graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name.startswith("past_key_values"):
            feed[value.name] = np.zeros((rows, dims[1], past, dims[3]), np.float32)
        elif value.name == "attention_mask":
            feed[value.name] = np.ones((rows, past + tokens), np.int64)
        elif value.name == "position_ids":
            feed[value.name] = np.tile(np.arange(past, past + tokens), (rows, 1))
        else:
            feed[value.name] = ids
    return feed


def onnxruntime_files(decoder: Decoder, folder: Path) -> dict[str, Path]:
    """What MatMulNBitsQuantizer writes by each of its recipes."""
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    gather = ("MatMul", "Gather")
    last, down = _eight(onnx.load(decoder.model))
    recipes: Mapping[str, Callable[[], Any]] = {
        "RTN": lambda: nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True),
        "RTN, zero points": lambda: nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK),
        "HQQ": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4),
        "k-quant": nbits.KQuantWeightOnlyQuantConfig,
        "k-quant, last at 8": lambda: nbits.KQuantWeightOnlyQuantConfig(customized_weight_config=last),
        "k-quant, last and down at 8": lambda: nbits.KQuantWeightOnlyQuantConfig(customized_weight_config=last | down),
        "RTN with Gather": lambda: nbits.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK, is_symmetric=True, op_types_to_quantize=gather
        ),
    }
    made = {}
    for position, (name, config) in enumerate(recipes.items()):
        made[name] = folder / f"peer{position}.onnx"
        with _silent():
            source = onnx.load(decoder.model)
            if "Gather" in name:
                source = version_converter.convert_version(source, 21)
            quantizer = nbits.MatMulNBitsQuantizer(source, block_size=BLOCK, algo_config=config())
            quantizer.process()
            quantizer.model.save_model_to_file(str(made[name]))
    return made


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the progress and the logs of the quantizer, which are no part of the table."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def _eight(model: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last product, and the down projections of the last block and of each third one, at 8 bits."""
    stored = {t.name: list(t.dims) for t in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in stored]
    widest = max(stored[n.input[1]][0] for n in products)
    down = [n.name for n in products if stored[n.input[1]][0] == widest]
    chosen = {name for k, name in enumerate(down) if k == len(down) - 1 or k % 3 == 2}
    return {products[-1].name: {"bits": 8}}, {name: {"bits": 8} for name in chosen}


def ours(decoder: Decoder, nbytes: int, out: Path, *more: str) -> Path:
    """The file of the command with a limit of bytes, and no other option than data."""
    rows = out.with_suffix(".npz")
    np.savez(rows, **decoder.calibration)
    command = [sys.executable, "-m", "mixquant_onnx", str(decoder.model), str(out), "--max-size", f"{nbytes}B"]
    subprocess.run([*command, "--data", str(rows), *more], check=True, capture_output=True)
    return out


class Judge:
    """Compares files with the float model on the held-out sequences."""

    def __init__(self, decoder: Decoder) -> None:
        self._model = decoder.model
        model = onnx.load(decoder.model)
        self._data, self._tokens = decoder.held, tokens_of_model(model, decoder.held)
        self._reference = run_all(Session(model), decoder.held)
        dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        one = next(iter(decoder.held.feeds[0].values()))[:1]
        self._step = feed_of(model, one, 0) if dims[1] else feed_of(model, one[:, :1], one.shape[1] - 1)

    def quality(self, file: Path) -> TokenQuality:
        assert self._tokens is not None
        found = token_quality(self._tokens, self._data, self._reference, run_all(Session(file), self._data))
        assert found is not None
        return found

    def time(self, file: Path) -> float:
        """Of one token with all others in the cache (of a sequence where there is no cache), as a share of float's."""
        return float(np.median([latency(self._model, file, self._step).ratio for _ in range(3)]))


def rows_of(decoder: Decoder, folder: Path) -> tuple[list[list[object]], list[list[object]]]:
    """The rows of the table of files, and of that of the goal."""
    judge, peers = Judge(decoder), onnxruntime_files(decoder, folder)
    files = {"float": decoder.model, **{f"onnxruntime: {name}": file for name, file in peers.items()}}
    for name in REFERENCES:
        for share in (1, SMALLER):
            nbytes = int(share * peers[name].stat().st_size)
            files[_label(name, share)] = ours(
                decoder, nbytes, folder / f"ours{len(files)}.onnx", "--table", str(folder / "table")
            )
    label = f"{_label('RTN', 1)}, `--for memory`"
    files[label] = ours(decoder, peers["RTN"].stat().st_size, folder / "memory.onnx", "--for", "memory")
    found = {name: judge.quality(file) for name, file in files.items()}
    goal = [_goal(decoder.name, name, found) for name in REFERENCES]
    print(*goal, sep="\n", file=sys.stderr, flush=True)
    return [
        [decoder.name, name, files[name].stat().st_size, *_cells(quality), f"{judge.time(files[name]):.2f}"]
        for name, quality in found.items()
    ], goal


def _label(reference: str, share: float) -> str:
    return f"ours at {'' if share == 1 else f'{share:g} of '}the bytes of {reference}"


def _goal(model: str, reference: str, found: Mapping[str, TokenQuality]) -> list[object]:
    theirs, *own = (found[name].kl.value for name in
                    (f"onnxruntime: {reference}", _label(reference, 1), _label(reference, SMALLER)))  # fmt: skip
    less = [1 - kl / theirs for kl in own]
    reached = "yes" if less[0] >= LESS and less[1] >= 0 else "no"
    return [model, reference, f"{theirs:.3g}", *(x for kl, part in zip(own, less, strict=True) for x in
                                                 (f"{kl:.3g}", f"{part:.1%}")), reached]  # fmt: skip


def _cells(quality: TokenQuality) -> list[str]:
    data = token_data(quality)
    assert data is not None
    return [mean_text(data["kl"]), share_text(data["top1"]), mean_text(data["perplexity"])]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench decoders", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args(arguments)
    found = decoders(None if args.data_root is None else Path(args.data_root))
    print(f"# Decoders at the bytes of others\n\n{versions()}\n")
    print(INTRODUCTION)
    rows, goals, counts = list[list[object]](), list[list[object]](), list[str]()
    for decoder in (d for d in found if not args.only or d.name in args.only.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            made, goal = rows_of(decoder, Path(folder))
        rows, goals = rows + made, goals + goal
        tokens = sum(next(iter(feed.values())).size for feed in decoder.held.feeds)
        counts.append(f"{decoder.name}: {tokens} tokens in {decoder.held.rows} sequences")
    print(table(["model", "file", "bytes", "KL, nats a token", "same token", "perplexity", "time / float"], rows))
    print(f"\nHeld out: {'; '.join(counts)}.\n\n## Less divergence at the same bytes\n")
    print(f"At most {1 - LESS:.0%} of the KL at the same bytes, and no more KL at {SMALLER:g} of them, is the goal.\n")
    same, less = ("KL of ours, same bytes", "less"), (f"KL of ours at {SMALLER:g} of the bytes", "less")
    print(table(["model", "reference", "its KL", *same, *less, "goal reached"], goals))
    return 0


INTRODUCTION = f"""\
Kullback-Leibler divergence of the next token from the float model's, share of tokens at which both name the same next
one, and perplexity, each with its standard error over sequences, on sequences that nothing was fitted to. Others:
`onnxruntime.quantization.matmul_nbits_quantizer`, 4 bits, blocks of {BLOCK}, whose files leave the embedding in float
unless Gather is named (which needs opset 21: the model is converted first); "down": the down projections of the last
block and of each third one. Ours: `mixquant-onnx in.onnx out.onnx --max-size BYTES --data calib.npz`, no other option
unless said; `--table` keeps what is measured once.

Time: of one token with all others in the cache (of a whole sequence where the model has no cache), one thread, the
median of three measurements. Theirs run on 4-bit codes; ours are unpacked when the file is loaded and run as fast as
float, but with `--for memory`, where large weights stay codes. Float, timed against itself, shows the spread.
"""
