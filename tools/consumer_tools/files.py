"""The files that consumers are given, and what ONNX Runtime makes of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

import mixquant_onnx as mq
from mixquant_onnx.runtime.session import Session

UINT2 = "--target qdq, model of opset 25"
FORMS: dict[str, dict[str, Any]] = {
    "--target qdq": {"target": "qdq"},
    "--target qdq --native-types": {"target": "qdq", "native_types": True},
    UINT2: {"target": "qdq"},
    "--target qdq --granularity tensor --min-ort 1.20": {
        "target": "qdq",
        "granularity": "tensor",
        "min_ort": (1, 20),
    },
    "--target ort": {},
    "--target ort --min-ort 1.20": {"min_ort": (1, 20)},
}
WIDTHS = tuple(range(2, 9))


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A quantized model. `exact`: its first output on the rows, with float activations."""

    path: Path
    model: str
    form: str
    bits: int
    nbytes: int
    exact: Any


def make(model: Path, rows: Any, folder: Path, forms: Iterable[str], widths: Iterable[int]) -> list[File]:
    """A file for each form and width that there is; `--native-types` has not all widths, and UINT2 has one."""
    files, newer = [], version_converter.convert_version(onnx.load(model), 25)
    for k, form in enumerate(forms):
        for bits in widths:
            if form == UINT2 and bits != 2:
                continue
            path = folder / f"{model.parent.name}_{k}_{bits}.onnx"
            try:
                source = newer if form == UINT2 else model
                made = mq.quantize(source, path, bits=bits, data_free=True, method="mse", verify=False, **FORMS[form])
            except mq.OptionError:
                continue
            session = Session(path, "exact")
            exact = session.run({session.inputs[0]: rows})[0]
            files.append(
                File(path=path, model=model.parent.name, form=form, bits=bits, nbytes=made.nbytes_after, exact=exact)
            )
    return files


def decibels(exact: Any, output: Any) -> float:
    """SQNR, at most 140 (float32 has no more)."""
    noise = float(np.sum((exact.astype(np.float64) - output) ** 2) / np.sum(exact.astype(np.float64) ** 2))
    return float(min(140.0, -10 * np.log10(max(noise, 1e-30))))
