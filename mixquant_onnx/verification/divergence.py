"""The first inner value that differs between two models which should compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto

from mixquant_onnx.model.taps import with_outputs
from mixquant_onnx.numerics.noise import decibels, noise_share, noises_of, sqnr_db
from mixquant_onnx.numerics.outputs import Array, Outputs, Pair, is_numbers, pairs_of
from mixquant_onnx.runtime.session import Feed, Session

_DECIDE = frozenset(
    {
        "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "NonZero", "Unique", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "Equal", "Round", "Floor", "Ceil", "Sign", "Hardmax", "Compress", "Cast", "LabelEncoder",
        "TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier",
    }
)  # fmt: skip
"""Operators that are not continuous: a change of the input by float rounding may change the output by any amount."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first value, in graph order, that differs.

    Attributes:
        where: Name and operator of the node that computes it.
        decision: Whether float rounding explains the difference: the value is an integer or boolean, its shape differs,
            or its operator is not continuous.
        before: The lowest SQNR in dB of the values before it.
    """

    where: str
    decision: bool
    before: float


def closeness(reference: Outputs, other: Outputs) -> tuple[float, bool]:
    """Compare outputs of two models on the same batches.

    Args:
        reference: Outputs of the reference.
        other: Outputs of the other model.

    Returns:
        (lowest SQNR in dB of the numeric outputs, whether decisions and shapes are equal).
    """
    lowest, same = float("inf"), True
    for pair in pairs_of(reference, other):
        ratio, alike = _closeness(pair)
        lowest, same = min(lowest, ratio), same and alike
    return lowest, same


def strict_closeness(reference: Outputs, other: Outputs) -> float:
    """Lowest SQNR in dB of the numeric outputs; minus infinity where decisions or shapes differ.

    Args:
        reference: Outputs of the reference.
        other: Outputs of the other model.

    Returns:
        The SQNR; infinite where all outputs are equal.
    """
    ratio, same = closeness(reference, other)
    return ratio if same else -float("inf")


def _closeness(pair: Pair) -> tuple[float, bool]:
    if pair.changed_shapes:
        return float("inf"), False
    if not pair.numbers:
        return float("inf"), all(bool(np.all(a == b)) for a, b in pair.same_shape)
    noises = noises_of(pair)
    return decibels(noise_share(sum(n.noise for n in noises), sum(n.signal for n in noises))), True


def first_divergence(
    saved: ModelProto, reference: ModelProto, feeds: Sequence[Feed], limit: float
) -> Divergence | None:
    """Find the first value of the main graph whose SQNR is below a limit.

    Values behind a decision cannot be compared; the search continues with the next batch.

    Args:
        saved: The written model.
        reference: The float graph with dequantized weights.
        feeds: Batches to run both on.
        limit: Least SQNR in dB of two equal values.

    Returns:
        The first value that no decision explains, else the first decision; None where nothing differs.

    Raises:
        RuntimeFailure: ONNX Runtime does not give values inside of a model.
    """
    present = {o for node in saved.graph.node for o in node.output}
    names = [o for node in reference.graph.node for o in node.output if o in present and o]
    makers = {o: n for n in reference.graph.node for o in n.output}
    sessions = [Session(with_outputs(model, names), "exact") for model in (reference, saved)]
    found: Divergence | None = None
    for feed in feeds:
        want, got = (session.run(feed, names) for session in sessions)
        one = _first(names, makers, want, got, limit)
        if one is not None and not one.decision:
            return one
        found = found or one
    return found


def _first(
    names: Sequence[str], makers: Mapping[str, NodeProto], want: Sequence[Array], got: Sequence[Array], limit: float
) -> Divergence | None:
    before = float("inf")
    for name, a, b in zip(names, want, got, strict=True):
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            continue
        ratio = _ratio(a, b)
        if ratio < limit:
            node = makers[name]
            decision = a.shape != b.shape or not is_numbers(a) or node.op_type in _DECIDE
            return Divergence(where=f"'{node.name or name}' ({node.op_type})", decision=decision, before=before)
        before = min(before, ratio)
    return None


def has_decisions_inside(model: ModelProto) -> bool:
    """Whether the main graph contains an operator that is not continuous."""
    return any(node.op_type in _DECIDE - {"Cast"} for node in model.graph.node)


def _ratio(a: Array, b: Array) -> float:
    """SQNR in dB of one inner value; infinite where it is all zero, minus infinity where shapes differ."""
    if a.shape != b.shape:
        return float("-inf")
    if not is_numbers(a):
        return float("inf") if bool(np.all(a == b)) else float("-inf")
    ratio = sqnr_db(a, b)
    return ratio if a.any() or np.isnan(b).any() else float("inf")
