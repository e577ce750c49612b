"""The proof: codes decode to themselves, the graph equals its oracle, and how close it is to float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, helper

from mixquant_onnx.errors import DataError, ProofError
from mixquant_onnx.feeds import Data, synthetic
from mixquant_onnx.graph.sites import LocatedSite, weight_values
from mixquant_onnx.metrics import cosine, sqnr_db, top1_agreement
from mixquant_onnx.oracle import put, replace_weight
from mixquant_onnx.runtime import Profile, RuntimeFailure, Session
from mixquant_onnx.types import FloatArray, Quantized
from mixquant_onnx.verification.equivalence import agree_as_written

ORACLE_SQNR_DB = {"float32": 70.0, "float64": 70.0, "float16": 40.0, "bfloat16": 20.0}
"""Least SQNR of the graph against its oracle, by the type of its weights. Rounding in float32 leaves 95 dB and
more on the fetched models; a wrong axis or zero point in one layer leaves under 40 (tests/test_verify.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """The written model against the float model in one profile; top1 only where the output is of classes."""

    profile: Profile
    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was proved. `codes`: tensors whose codes decode exactly; `decoder`: who decoded them."""

    codes: int
    decoder: str
    oracle_sqnr_db: float | None
    quality: tuple[Quality, ...]
    float_accuracy: float | None
    samples: int
    synthetic: bool
    notes: tuple[str, ...]
    in_sample: bool = False
    optimism_db: float | None = None

    @property
    def deployed(self) -> Quality | None:
        """With ONNX Runtime's default options; None where the model did not run."""
        return next((q for q in self.quality if q.profile == "deployed"), None)


def reference_outputs(session: Session, data: Data) -> list[list[FloatArray]]:
    """The float model's outputs. Raises DataError when it does not run on `data`."""
    try:
        outputs = run_all(session, data)
    except RuntimeFailure as failure:
        raise DataError(f"the float model does not run on this data: {failure}") from failure
    for array in (a for feed in outputs for a in feed if isinstance(a, np.ndarray)):
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            raise DataError("the float model gives NaN on this data; give rows on which it works")
    return outputs


def check_oracle(saved: ModelProto, reference: ModelProto, exact: Session, data: Data, types: set[str]) -> float | None:
    """SQNR of the saved model (profile exact) against its oracle `reference`. Raises ProofError.

    None where the oracle differs from itself: a random model. Where the graph rounds by itself (QuantizeLinear),
    the SQNR with its roundings computed as written.
    """
    limit = min((ORACLE_SQNR_DB[name] for name in types), default=ORACLE_SQNR_DB["float32"])
    oracle_session = Session(reference, "exact")
    wanted = run_all(oracle_session, data)
    try:
        got = run_all(exact, data)
    except RuntimeFailure as failure:
        raise ProofError(f"proof failed: ONNX Runtime does not run the result ({failure}); report it") from failure
    ratio, _ = compare(wanted, got)
    if not ratio >= limit:
        if not compare(wanted, run_all(oracle_session, data))[0] >= limit:
            return None
        as_written = agree_as_written(reference, saved, data.feeds, ratio, limit, lambda a, b: compare(a, b)[0])
        if as_written is not None:
            return as_written
        where = first_divergence(saved, reference, data, limit)
        raise ProofError(
            f"proof failed: {ratio:.1f} dB against the float graph with the same weights, at least {limit:g} expected; "
            f"first different at {where}; nothing was written (--no-verify writes without proof)"
        )
    return ratio


def float_accuracy(reference: list[list[FloatArray]], data: Data) -> float | None:
    """Top-1 of the float model. Raises DataError where the labels are not one for each row."""
    classes = _classes(reference)
    if data.labels is None or classes is None:
        return None
    if len(data.labels) != len(classes):
        raise DataError(f"{len(data.labels)} labels for {len(classes)} rows of data; give one label a row")
    return _accuracy(classes, data.labels)


def sample_count(data: Data) -> int:
    """Rows over all feeds."""
    return data.rows


@contextmanager
def oracle(sites: Mapping[str, LocatedSite], quantized: Mapping[str, Quantized]) -> Iterator[None]:
    """The model that `sites` point into is its oracle inside: float, with dequantized weights. Itself again after."""
    kept = {name: weight_values(sites[name]) for name in quantized}
    try:
        for name, q in quantized.items():
            replace_weight(sites[name], q)
        yield
    finally:
        for name, value in kept.items():
            put(sites[name], value)


def run_all(session: Session, data: Data) -> list[list[FloatArray]]:
    return [session.run(feed) for feed in data.feeds]


def compare(reference: list[list[FloatArray]], other: list[list[FloatArray]]) -> tuple[float, float]:
    """(lowest SQNR, lowest cosine) over the float outputs, each over all feeds together."""
    ratios, cosines = [], []
    for position in range(len(reference[0])):
        pairs = [(r[position], o[position]) for r, o in zip(reference, other, strict=True)]
        if not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a, _ in pairs):
            continue
        if any(a.shape != b.shape for a, b in pairs):
            return float("-inf"), 0.0
        a, b = (np.concatenate([np.asarray(p[k], np.float64).reshape(-1) for p in pairs]) for k in (0, 1))
        if a.size == 0 or not (a.any() or b.any()):
            continue
        ratios.append(sqnr_db(a, b))
        cosines.append(cosine(a, b))
    return min(ratios, default=float("inf")), min(cosines, default=1.0)


def _classes(outputs: list[list[FloatArray]]) -> FloatArray | None:
    """The first output of all feeds, where it is [N, classes]."""
    first = [feed[0] for feed in outputs]
    if not all(isinstance(a, np.ndarray) and a.ndim == 2 and a.shape[1] > 1 for a in first):
        return None
    return np.concatenate(first) if len({a.shape[1] for a in first}) == 1 else None


def _accuracy(classes: FloatArray | None, labels: FloatArray | None) -> float | None:
    if classes is None or labels is None or len(labels) != len(classes):
        return None
    return float(np.mean(classes.argmax(1) == labels))


def first_divergence(saved: ModelProto, reference: ModelProto, data: Data, limit: float) -> str:
    """The first value, in graph order, that both models compute and that is not the same in both."""
    names = [o for node in reference.graph.node for o in node.output if o]
    present = {o for node in saved.graph.node for o in node.output}
    names = [name for name in names if name in present]
    makers = {o: n for n in reference.graph.node for o in n.output}
    try:
        got, want = (_values(model, names, data) for model in (saved, reference))
    except RuntimeFailure:
        return "a layer that could not be singled out"
    for name, a, b in zip(names, want, got, strict=True):
        if isinstance(a, np.ndarray) and np.issubdtype(a.dtype, np.floating):
            same_shape = a.shape == b.shape
            if not same_shape or (a.any() and not sqnr_db(a, b) >= limit):
                return f"'{makers[name].name or name}' ({makers[name].op_type})"
    return "a layer inside a subgraph"


def _values(model: ModelProto, names: Sequence[str], data: Data) -> list[FloatArray]:
    wider = ModelProto()
    wider.CopyFrom(model)
    known = {value.name for value in wider.graph.output}
    wider.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    return Session(wider, "exact").run(data.feeds[0], names)


def usable_data(float_session: Session, original: ModelProto) -> Data | None:
    """Generated inputs on which the float model runs and gives finite outputs; None where none was found."""
    for data in synthetic(original):
        try:
            outputs = run_all(float_session, data)
        except RuntimeFailure:
            continue
        arrays = [a for feed in outputs for a in feed if isinstance(a, np.ndarray)]
        floats = [a for a in arrays if np.issubdtype(a.dtype, np.floating)]
        if all(np.isfinite(a).all() for a in floats):
            return data
    return None


def quality_of(reference: list[list[FloatArray]], session: Session, data: Data) -> Quality:
    got = run_all(session, data)
    ratio, angle = compare(reference, got)
    ours, theirs = _classes(got), _classes(reference)
    agreement = None if ours is None or theirs is None else top1_agreement(theirs, ours)
    return Quality(
        profile=session.profile,
        sqnr_db=ratio,
        cosine=angle,
        top1_agreement=agreement,
        accuracy=_accuracy(ours, data.labels),
    )
