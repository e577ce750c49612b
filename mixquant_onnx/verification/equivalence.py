"""Equivalence of a written model and its reference: the float graph with the same, dequantized weights.

Both compute the same function. Outputs may differ by float rounding, and no more: a larger difference is an error of
the rewrite, not of quantization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onnx import ModelProto, TensorProto

from mixquant_onnx.data.noise import Data
from mixquant_onnx.data.outputs import run_all
from mixquant_onnx.errors import ProofError
from mixquant_onnx.model.substitute import put_back, replace_weight
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.as_written import agree_as_written
from mixquant_onnx.verification.divergence import (
    Divergence,
    closeness,
    first_divergence,
    has_decisions_inside,
    strict_closeness,
)

LEAST_SQNR_DB = {"float32": 70.0, "float64": 70.0, "float16": 40.0, "bfloat16": 20.0}
"""Least SQNR in dB of a written model against its reference, by the type of its weights. Rounding in float32 leaves
95 dB and more on the models of docs/research/models.md; a wrong axis or zero point in one layer leaves less than 40
(tests/test_verify.py)."""


@contextmanager
def dequantized_weights(sites: Mapping[str, LocatedWeight], quantized: Mapping[str, QuantizedTensor]) -> Iterator[None]:
    """Replace weights of a model by dequantized ones within the context.

    Args:
        sites: Weights of the float model, by name.
        quantized: The quantized weights; the float ones are restored at the end.
    """
    kept = {name: _copy_of(sites[name].source.tensor) for name in quantized}
    try:
        for name, q in quantized.items():
            replace_weight(sites[name], q)
        yield
    finally:
        for name, tensor in kept.items():
            put_back(sites[name], tensor)


def _copy_of(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def check_equivalence(
    saved: ModelProto, reference: ModelProto, exact: Session, data: Data, types: set[str]
) -> float | None:
    """Compare the outputs of the written model with those of its reference.

    Where the graph rounds activations itself (QuantizeLinear), the SQNR is that of both graphs with every rounding
    computed as written. Where float rounding alone changes a decision of the graph (NonMaxSuppression, TopK, ArgMax),
    it is the SQNR of the values before that decision.

    Args:
        saved: The written model.
        reference: The float graph with dequantized weights.
        exact: A session of the written model, in profile `exact`.
        data: Samples to compare on.
        types: NumPy names of the types of the quantized weights.

    Returns:
        SQNR in dB; None where the reference differs between two runs of itself (a model with random operators).

    Raises:
        ProofError: The two differ by more than float rounding; the message names the first value that does.
    """
    limit = min((LEAST_SQNR_DB[name] for name in types), default=LEAST_SQNR_DB["float32"])
    session = Session(reference, "exact")
    wanted = run_all(session, data)
    try:
        got = run_all(exact, data)
    except RuntimeFailure as failure:
        told = f"verification failed: ONNX Runtime does not run the result ({failure}); report it"
        raise ProofError(told) from failure
    ratio, same = closeness(wanted, got)
    if ratio >= limit and same:
        return ratio
    if not strict_closeness(wanted, run_all(session, data)) >= limit:
        return None
    optimized = ratio if same else -float("inf")
    as_written = agree_as_written(reference, saved, data.feeds, optimized, limit, strict_closeness)
    return _explained(saved, reference, data, ratio, limit) if as_written is None else as_written


def _explained(saved: ModelProto, reference: ModelProto, data: Data, ratio: float, limit: float) -> float:
    """SQNR in dB before the decision that explains different outputs. Raises ProofError where there is none."""
    found = _divergence(saved, reference, data, limit)
    if isinstance(found, Divergence) and found.decision and found.before >= limit:
        return found.before
    if found is None and ratio >= limit and has_decisions_inside(reference):
        return ratio
    where = found.where if isinstance(found, Divergence) else found or "a layer inside a subgraph"
    told = f"{ratio:.1f} dB" if ratio < limit else "other decisions or shapes"
    raise ProofError(
        f"verification failed: {told} against the float graph with the same weights, at least {limit:g} dB expected; "
        f"first different at {where}; nothing was written (--no-verify writes without verification)"
    )


def _divergence(saved: ModelProto, reference: ModelProto, data: Data, limit: float) -> Divergence | str | None:
    try:
        return first_divergence(saved, reference, data.feeds, limit)
    except RuntimeFailure:
        return "a layer that could not be singled out"
