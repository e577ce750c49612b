"""Part 6: every model of onnx's backend tests and of onnxruntime's wheel, at each width, under each target.

Node cases come as they are, and once more with all but their first float input stored, so that they have weights.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper

from mixquant_onnx.errors import MixquantError
from mixquant_onnx.model.files import load
from mixquant_onnx.model.weights import find
from reliability_checks.command import called, changed, contents
from reliability_checks.reference import disagreement
from reliability_checks.verdict import Failure, Part, Verdict

FORMS: Mapping[str, tuple[str, ...]] = {
    "ort": (), "qdq": ("--target", "qdq"), "memory": ("--for", "memory"), "speed": ("--for", "speed"),
}  # fmt: skip
"""The targets; the last two are kinds of the first."""
WIDTHS = range(2, 9)


@cache
def files() -> Mapping[str, Path]:
    """Models of the installed packages by name."""
    found: dict[str, Path] = {}
    for package in (Path(onnx.__file__).parent / "backend/test/data", Path(onnxruntime.__file__).parent):
        found |= {str(path.relative_to(package)): path for path in sorted(package.rglob("*.onnx"))}
    return found


@cache
def nodes() -> Mapping[str, ModelProto]:
    """Models that the node cases make, which takes seconds."""
    found: dict[str, ModelProto] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None):
            if case.model is None:
                continue
            found[f"node/{case.name}"] = case.model
            stored = _stored(case.model, case.data_sets)
            if stored is not None:
                found[f"stored/{case.name}"] = stored
    return found


def _stored(model: ModelProto, sets: Any) -> ModelProto | None:
    """The model with its inputs but for the first as initializers; None where there is nothing to store."""
    given = list(sets[0][0]) if sets else []
    values = [(value, array) for value, array in zip(model.graph.input, given, strict=False) if value.name]
    later = [(v, a) for v, a in values[1:] if isinstance(a, np.ndarray) and v.type.HasField("tensor_type")]
    if not any(a.dtype.kind == "f" and a.size > 1 for _, a in later):
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    names = {value.name for value, _ in later}
    kept = [value for value in copy.graph.input if value.name not in names]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(array, value.name) for value, array in later)
    return copy


def cases(fast: bool) -> Sequence[str]:
    """Models with a target, each at all widths; in the fast run with a width too."""
    if fast:
        return [f"{name}|{2 + k % 7}|{list(FORMS)[k % 4]}" for k, name in enumerate([*files()][::3])]
    names = sorted({**files(), **nodes()})
    return [f"{name}|{form}" for name in names for form in FORMS]


def check(case: str, folder: Path) -> list[Verdict]:
    """One model under one target: all widths, or the one that is named."""
    name, *rest = case.split("|")
    widths = [int(rest[0])] if len(rest) == 2 else list(WIDTHS)
    return list(_each(name, rest[-1], widths, folder))


def _each(name: str, form: str, widths: Sequence[int], folder: Path) -> Iterator[Verdict]:
    model = files().get(name) or nodes()[name]
    source = folder / "in.onnx"
    data = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    source.write_bytes(data)
    os.chdir(folder)
    if len(widths) > 1 and not _has_weights(source):
        widths = [min(WIDTHS), max(WIDTHS)]
    for bits in widths:
        before = contents(folder)
        options = ("--bits", str(bits), "--min-size", "1", "--data-free", *FORMS[form])
        end = called(("in.onnx", f"{bits}.onnx", *options))
        failures, outcome = end.failures(), f"{form}: {end.outcome}"
        written = [] if end.result is None else [file.name for file in end.result.files]
        failures += changed(before, contents(folder), written)
        if end.result is not None:
            what, wrong = disagreement(source, end.result) if form != "speed" else ("", None)
            outcome = f"{form}: written and verified; {what}"
            failures += [] if wrong is None else [Failure(kind="wrong", detail=wrong)]
        elif end.code == 8:
            failures.append(Failure(kind="wrong", detail=end.told.strip()[:300]))
        yield Verdict(case=f"{name}|{bits}|{form}", outcome=outcome, failures=tuple(failures))


def _has_weights(source: Path) -> bool:
    """Whether the width matters; where no weight is found, the least and the largest are tried."""
    try:
        return bool(find(load(source).model, 1).sites)
    except MixquantError:
        return False


PART = Part(name="corpus", title="onnx's backend tests and onnxruntime's models", cases=cases, check=check, limit=300)
