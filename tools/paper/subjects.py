"""The models of the experiments: those trained here, labelled ones of a data folder, and the user's own."""

from __future__ import annotations

import argparse
import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent.parent
_FEW = 500
"""Labelled inputs for experiments that run a model once for every layer."""

_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A classifier, inputs to calibrate with, and labelled ones to judge by."""

    name: str
    path: Path
    input: str
    calibration: FloatArray
    inputs: FloatArray
    labels: FloatArray

    def logits(self, model: onnx.ModelProto | Path) -> FloatArray:
        session = Session(model)
        return np.concatenate([session.run({self.input: part})[0] for part in np.array_split(self.inputs, 10)])

    def figures(self, model: onnx.ModelProto, reference: FloatArray) -> tuple[float, float, float]:
        """Top-1, agreement with `reference`, squared error of the logits as a share."""
        found = self.logits(model)
        best = found.argmax(1)
        error = float(np.sum((found - reference) ** 2) / np.sum(reference**2))
        return float((best == self.labels).mean()), float((best == reference.argmax(1)).mean()), error


def options(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"tools/experiments {name}", description=description)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MIXQUANT_DATA"))
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--pretrained", action="store_true", help="the labelled models of --data-root too")
    parser.add_argument("--plot", type=Path, help="draw into this SVG file (needs matplotlib)")
    parser.add_argument(
        "--own", nargs=3, action="append", default=[], type=Path, metavar=("MODEL", "CALIB", "EVAL"),
        help="a classifier, such as one exported from torchvision: an .onnx file, an .npz with inputs by name, and one "
        "with inputs and `labels`",
    )  # fmt: skip
    return parser


def subjects(args: argparse.Namespace) -> list[Subject]:
    """Those that `args` of `options` ask for."""
    folders = [f for f in sorted((ROOT / "models").glob("*/")) if _has_labels(f / "eval.npz")]
    found = [_stored(f.name, f / "model.onnx", f / "calib.npz", f / "eval.npz") for f in folders]
    found += [_stored(model.stem, model, calibration, held) for model, calibration, held in args.own]
    if args.pretrained or args.only:
        root = Path(args.data_root or "/nowhere")
        found += [make(root) for name, make in _PRETRAINED.items() if (root / name / "model.onnx").is_file()]
    return [one for one in found if not args.only or one.name in args.only.split(",")]


def _has_labels(rows: Path) -> bool:
    """Whether there are labelled rows: a decoder's have none."""
    return rows.is_file() and "labels" in np.load(rows).files


def with_few(one: Subject) -> Subject:
    """`one` for experiments that run a model once for every layer."""
    return replace(one, inputs=one.inputs[:_FEW], labels=one.labels[:_FEW])


def _stored(name: str, model: Path, calibration: Path, held: Path) -> Subject:
    first = onnx.load(model, load_external_data=False).graph.input[0].name
    data = np.load(held)
    return Subject(
        name=name, path=model, input=first, calibration=np.load(calibration)[first], inputs=data[first],
        labels=data["labels"],
    )  # fmt: skip


def _resnet20(root: Path) -> Subject:
    """512 of its training images calibrate."""
    folder = root / "resnet20_cifar10"
    data = np.load(folder / "eval.npz")
    return Subject(
        name=folder.name, path=folder / "model.onnx", input="input",
        calibration=_normalized(np.load(folder / "train.npz")["images"][:512]),
        inputs=_normalized(data["images"]), labels=data["labels"],
    )  # fmt: skip


def _efficientnet(root: Path) -> Subject:
    folder = root / "efficientnet_lite0"
    spec = importlib.util.spec_from_file_location("evaluate", root / "evaluate.py")
    assert spec is not None and spec.loader is not None
    evaluate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(evaluate)
    inputs, labels = evaluate.imagenet_batch("eval", None)
    return Subject(
        name=folder.name, path=folder / "model.onnx", input="input",
        calibration=np.load(folder / "calib.npz")["input"], inputs=inputs, labels=labels,
    )  # fmt: skip


_PRETRAINED = {"resnet20_cifar10": _resnet20, "efficientnet_lite0": _efficientnet}


def _normalized(images: FloatArray) -> FloatArray:
    return np.ascontiguousarray(((images.astype(np.float32) / 255 - _MEAN) / _DEVIATION).transpose(0, 3, 1, 2))
