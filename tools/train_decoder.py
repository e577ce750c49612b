"""Train, export and check models/text_decoder: a decoder of bytes with a cache of keys and values.

The text are the documentation topics (pydoc_data.topics) and the docstrings of Python's standard library, under the PSF
licence, as installed with the interpreter. Whole documents are held back by SEED: one of ten to evaluate; calibration
sequences are a part of the training text. Run it through tools/train_models.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import math
import platform
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from decoder_network import HEAD, KV_HEADS, LAYERS, Decoder, cache_names, empty_cache
from example_files import ROOT, clean, described, write_manifest
from torch.nn import functional

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SEED = 20261128
OPSET = 17
NAME = "text_decoder"
STEPS, BATCH, LENGTH, RATE, DECAY = 1600, 16, 192, 3e-3, 0.1
CALIBRATION, EVALUATION, SEQUENCE = 96, 96, 256
TOLERANCE = 1e-4
SKIPPED = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "pydoc_data"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Bytes: to train on, and those of other documents to evaluate on."""

    train: Ints
    held: Ints

    def sequences(self, part: Ints, count: int) -> Ints:
        """`count` sequences that do not overlap, from all over `part`."""
        starts = np.linspace(0, len(part) - SEQUENCE, count).astype(np.int64)
        if (np.diff(starts) < SEQUENCE).any():
            raise SystemExit(f"{NAME}: the text is too short for {count} sequences")
        return np.stack([part[start : start + SEQUENCE] for start in starts])


def documents() -> list[str]:
    """The topics, and the docstrings of each module of the standard library."""
    found = [text for _, text in sorted(topics.items())]
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if SKIPPED & set(file.relative_to(library).parts):
            continue
        tree = ast.parse(file.read_bytes())
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        told = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        found.append("\n\n".join(text for text in told if text))
    return [text for text in found if len(text) >= SEQUENCE]


def load_text() -> Text:
    """Split the documents, the same way at every run."""
    found = documents()
    order = np.random.default_rng(SEED).permutation(len(found))
    held = order[: len(found) // 10]
    train = order[len(found) // 10 :]

    def joined(chosen: npt.NDArray[np.int64]) -> Ints:
        return np.frombuffer("\n\n\n".join(found[k] for k in chosen).encode(), np.uint8).astype(np.int64)

    return Text(train=joined(train), held=joined(held))


def rate(step: int) -> float:
    """Share of the learning rate: a rise over the first twentieth, then half a cosine down to a twentieth."""
    warm = STEPS // 20
    return (step + 1) / warm if step < warm else 0.05 + 0.475 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm)))


def logits(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Logits of whole sequences, without a cache."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    found: torch.Tensor = model(ids, torch.ones_like(ids), positions, *empty_cache(len(ids)))[0]
    return found


def train(text: Text) -> Decoder:
    """Train for a fixed number of steps on random pieces of the training text."""
    torch.manual_seed(SEED)
    model, random, source = Decoder(), np.random.default_rng(SEED), torch.from_numpy(text.train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    total = 0.0
    for step in range(STEPS):
        starts = random.integers(0, len(source) - LENGTH - 1, BATCH)
        ids = torch.stack([source[start : start + LENGTH + 1] for start in starts])
        loss = functional.cross_entropy(logits(model, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 99:
            print(f"{NAME}: step {step + 1}, training loss {total / 100:.4f}", flush=True)
            total = 0.0
    return model.eval()


def export(model: Decoder, path: Path) -> onnx.ModelProto:
    """Write the model as ONNX; batch, new tokens and cached tokens are free, weights inside."""
    past, present = cache_names("past_key_values"), cache_names("present")
    ids, cached = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, KV_HEADS, 5, HEAD)
    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        "position_ids": {0: "batch_size", 1: "sequence_length"},
        "logits": {0: "batch_size", 1: "sequence_length"},
        **{name: {0: "batch_size", 2: "past_sequence_length"} for name in past},
        **{name: {0: "batch_size", 2: "past_sequence_length + sequence_length"} for name in present},
    }
    torch.onnx.export(
        model,
        (ids, torch.ones(2, 8, dtype=torch.int64), torch.arange(5, 8).expand(2, 3), *[cached] * (2 * LAYERS)),
        str(path),
        input_names=["input_ids", "attention_mask", "position_ids", *past],
        output_names=["logits", *present],
        dynamic_axes=axes,
        opset_version=OPSET,
        do_constant_folding=True,
        dynamo=False,
    )
    return _named(clean(path), path)


def _named(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with weights named after their layers: the exporter calls those that it transposes onnx::MatMul_1."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".") + ".weight"
            stored[node.input[1]].name = name
            node.input[1] = name
    onnx.save(model, path)
    return model


class Run:
    """The written file in ONNX Runtime, on one thread."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: Ints, cache: list[Floats]) -> tuple[Floats, list[Floats]]:
        """Logits of the new tokens, and the cache with them."""
        past = cache[0].shape[2]
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones((len(ids), past + ids.shape[1]), np.int64),
            "position_ids": np.broadcast_to(np.arange(past, past + ids.shape[1]), ids.shape).copy(),
            **dict(zip(cache_names("past_key_values"), cache, strict=True)),
        }
        found, *present = (np.asarray(value) for value in self._session.run(None, feed))
        return found, present


def check_same(model: Decoder, run: Run, ids: Ints) -> None:
    """Refuse a file whose logits differ from the model's, of a whole text or of pieces with the cache."""
    with torch.no_grad():
        expected = logits(model, torch.from_numpy(ids)).numpy()
    for cuts in ((), (40,), (1, 2, 90)):
        cache = [part.numpy() for part in empty_cache(len(ids))]
        found = []
        for piece in np.split(ids, cuts, axis=1):
            made, cache = run(piece, cache)
            found.append(made)
        if not np.abs(np.concatenate(found, axis=1) - expected).max() <= TOLERANCE:
            raise SystemExit(f"{NAME}: the exported file differs from the model, cut at {cuts}")


def loss_of(run: Run, ids: Ints) -> tuple[float, float]:
    """Mean negative logarithm of the probability of the next byte, in nats, and the share of right first guesses."""
    found = torch.from_numpy(run(ids, [part.numpy() for part in empty_cache(len(ids))])[0][:, :-1]).flatten(0, 1)
    right = torch.from_numpy(ids[:, 1:]).flatten()
    return float(functional.cross_entropy(found, right)), float((found.argmax(1) == right).double().mean())


def describe(path: Path, written: onnx.ModelProto, text: Text, ids: Ints) -> dict[str, object]:
    """The manifest entry, measured on the file that was written."""
    loss, hits = loss_of(Run(path), ids)
    every = np.concatenate([text.train, text.held]).astype(np.uint8).tobytes()
    return {
        "about": f"decoder of bytes: {LAYERS} layers, width 128, 4 query and {KV_HEADS} key heads, rotary, a cache",
        "model_licence": "Apache-2.0",
        "data": {
            "package": "CPython, its standard library",
            "package_version": platform.python_version(),
            "package_licence": "PSF-2.0",
            "set": "pydoc_data.topics and the docstrings of the standard library, as UTF-8",
            "licence": "PSF-2.0 (Copyright 2001 Python Software Foundation)",
            "sha256": hashlib.sha256(every).hexdigest(),
            "train": len(text.train),
            "eval": f"{len(ids)} sequences of {SEQUENCE} bytes of {len(text.held)} of other documents",
            "calib": f"{CALIBRATION} sequences of {SEQUENCE} bytes of the training text",
        },
        "steps": STEPS,
        "float_loss": loss,
        "float_perplexity": math.exp(loss),
        "float_accuracy": hits,
        **described(path, written, SEED, OPSET),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example decoder.")
    parser.add_argument("--output", type=Path, default=ROOT / "models", help="folder to write to")
    output: Path = parser.parse_args().output
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.monotonic()
    text = load_text()
    model = train(text)
    folder = output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    written = export(model, folder / "model.onnx")
    held, calibration = text.sequences(text.held, EVALUATION), text.sequences(text.train, CALIBRATION)
    check_same(model, Run(folder / "model.onnx"), held[:3])
    np.savez_compressed(folder / "calib.npz", input_ids=calibration)
    np.savez_compressed(folder / "eval.npz", input_ids=held)
    shutil.copy(Path(sysconfig.get_path("stdlib")) / "LICENSE.txt", folder / "LICENSE-python.txt")
    entry = describe(folder / "model.onnx", written, text, held)
    write_manifest(output, {NAME: entry})
    print(f"{NAME}: loss {entry['float_loss']:.4f}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
