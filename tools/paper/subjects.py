"""The models of the experiments: those trained here, and labelled ones of a data folder."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from mixquant_onnx.runtime import Session
from mixquant_onnx.types import FloatArray

ROOT = Path(__file__).resolve().parent.parent.parent
_LABELLED = {"resnet20_cifar10": 512}
"""Models of the data folder whose images are stored as they are, and how many of them calibrate."""
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A classifier, inputs to calibrate with, and labelled ones to judge by."""

    name: str
    path: Path
    calibration: FloatArray
    inputs: FloatArray
    labels: FloatArray

    def logits(self, model: onnx.ModelProto | Path) -> FloatArray:
        session = Session(model)
        return np.concatenate([session.run({"input": part})[0] for part in np.array_split(self.inputs, 10)])

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
    return parser


def subjects(args: argparse.Namespace) -> list[Subject]:
    found = []
    for folder in sorted((ROOT / "models").glob("*/")):
        if (folder / "eval.npz").is_file():
            data = np.load(folder / "eval.npz")
            calibration = np.load(folder / "calib.npz")["input"]
            found.append(
                Subject(
                    name=folder.name, path=folder / "model.onnx", calibration=calibration,
                    inputs=data["input"], labels=data["labels"],
                )
            )  # fmt: skip
    for name, count in _LABELLED.items():
        folder = Path(args.data_root or "/nowhere") / name
        if (folder / "train.npz").is_file():
            data = np.load(folder / "eval.npz")
            found.append(
                Subject(
                    name=name, path=folder / "model.onnx",
                    calibration=_normalized(np.load(folder / "train.npz")["images"][:count]),
                    inputs=_normalized(data["images"]), labels=data["labels"],
                )
            )  # fmt: skip
    return [one for one in found if not args.only or one.name in args.only.split(",")]


def _normalized(images: FloatArray) -> FloatArray:
    return np.ascontiguousarray(((images.astype(np.float32) / 255 - _MEAN) / _DEVIATION).transpose(0, 3, 1, 2))
