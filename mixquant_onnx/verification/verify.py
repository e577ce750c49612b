"""The proof: codes decode to themselves, the graph equals its oracle, and how close it is to float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto

from mixquant_onnx.data.dataset import rows_of
from mixquant_onnx.data.noise import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.errors import DataError, ProofError
from mixquant_onnx.model.substitute import put, replace_weight
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification import quality as qualities
from mixquant_onnx.verification.divergence import (
    Divergence,
    closeness,
    first_divergence,
    has_decisions_inside,
    strict_closeness,
)
from mixquant_onnx.verification.equivalence import agree_as_written
from mixquant_onnx.verification.quality import Quality
from mixquant_onnx.verification.statistics import Share

ORACLE_SQNR_DB = {"float32": 70.0, "float64": 70.0, "float16": 40.0, "bfloat16": 20.0}
"""Least SQNR of the graph against its oracle, by the type of its weights. Rounding in float32 leaves 95 dB and
more on the fetched models; a wrong axis or zero point in one layer leaves under 40 (tests/test_verify.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was proved. `codes`: tensors whose codes decode exactly; `decoder`: who decoded them.

    `samples`: rows compared, of `origin`, called `data_name`. `in_sample`: the weights were fitted to these rows, and
    figures are better than on others by about `optimism_db`, where that is known. `warnings`: what to do where quality
    is at risk.
    """

    codes: int
    decoder: str
    oracle_sqnr_db: float | None
    quality: tuple[Quality, ...]
    float_accuracy_share: Share | None
    samples: int
    origin: Literal["user", "proxy", "noise"]
    data_name: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    in_sample: bool = False
    optimism_db: float | None = None

    @property
    def synthetic(self) -> bool:
        """Whether rows were compared that are not the user's."""
        return self.samples > 0 and self.origin != "user"

    @property
    def float_accuracy(self) -> float | None:
        return None if self.float_accuracy_share is None else self.float_accuracy_share.value

    @property
    def deployed(self) -> Quality | None:
        """With ONNX Runtime's default options; None where the model did not run."""
        return next((q for q in self.quality if q.profile == "deployed"), None)


def check_oracle(saved: ModelProto, reference: ModelProto, exact: Session, data: Data, types: set[str]) -> float | None:
    """SQNR of the saved model (profile exact) against its oracle `reference`. Raises ProofError.

    None where the oracle differs from itself: a random model. Where the graph rounds by itself (QuantizeLinear),
    the SQNR with its roundings computed as written. Where a decision of the graph (NonMaxSuppression, TopK, ArgMax)
    falls otherwise by rounding alone, the SQNR is that of the values in front of it.
    """
    limit = min((ORACLE_SQNR_DB[name] for name in types), default=ORACLE_SQNR_DB["float32"])
    oracle_session = Session(reference, "exact")
    wanted = run_all(oracle_session, data)
    try:
        got = run_all(exact, data)
    except RuntimeFailure as failure:
        raise ProofError(f"proof failed: ONNX Runtime does not run the result ({failure}); report it") from failure
    ratio, same = closeness(wanted, got)
    if ratio >= limit and same:
        return ratio
    again, repeated = closeness(wanted, run_all(oracle_session, data))
    if not (again >= limit and repeated):
        return None
    optimized = ratio if same else -float("inf")
    as_written = agree_as_written(reference, saved, data.feeds, optimized, limit, strict_closeness)
    if as_written is not None:
        return as_written
    found = _divergence(saved, reference, data, limit)
    if isinstance(found, Divergence) and found.decision and found.before >= limit:
        return found.before
    if found is None and ratio >= limit and has_decisions_inside(reference):
        return ratio
    where = found.where if isinstance(found, Divergence) else found or "a layer inside a subgraph"
    told = f"{ratio:.1f} dB" if ratio < limit else "other decisions or shapes"
    raise ProofError(
        f"proof failed: {told} against the float graph with the same weights, at least {limit:g} dB expected; "
        f"first different at {where}; nothing was written (--no-verify writes without proof)"
    )


def _divergence(saved: ModelProto, reference: ModelProto, data: Data, limit: float) -> Divergence | str | None:
    try:
        return first_divergence(saved, reference, data.feeds, limit)
    except RuntimeFailure:
        return "a layer that could not be singled out"


def float_accuracy(reference: Outputs, data: Data, names: Sequence[str], axes: Mapping[str, int]) -> Share | None:
    """Top-1 of the float model. Raises DataError where the labels are not one for each row."""
    if data.labels is None:
        return None
    found = qualities.decided(reference, names, axes)
    if found is not None and len(data.labels) != len(found):
        raise DataError(f"{len(data.labels)} labels for {len(found)} rows of data; give one label a row")
    return qualities.accuracy(reference, names, axes, data.labels)


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


def quality_of(reference: Outputs, session: Session, data: Data, axes: Mapping[str, int] | None = None) -> Quality:
    """`session` against the float outputs `reference` on the same `data`."""
    rows = [rows_of(feed, data.axes) for feed in data.feeds]
    got = run_all(session, data)
    return qualities.measure(session.profile, reference, got, session.outputs, axes or {}, data.labels, rows)
