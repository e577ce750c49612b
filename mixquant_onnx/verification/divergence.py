"""Where two models that should compute the same first do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mixquant_onnx.numerics.metrics import sqnr_db
from mixquant_onnx.numerics.noise import decibels, noises_of
from mixquant_onnx.numerics.outputs import Array, Outputs, Pair, is_numbers, pairs_of
from mixquant_onnx.runtime.session import Feed, Session

_DECIDE = frozenset(
    {
        "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "NonZero", "Unique", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "Equal", "Round", "Floor", "Ceil", "Sign", "Hardmax", "Compress", "Cast", "LabelEncoder",
        "TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier",
    }
)  # fmt: skip
"""Operators whose output jumps where their input moves by a unit of rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first value, in graph order, that differs.

    `decision`: it is an integer, a truth value, a shape, or of an operator that jumps, so that rounding explains it.
    `before`: the lowest SQNR of the values in front of it.
    """

    where: str
    decision: bool
    before: float


def closeness(reference: Outputs, other: Outputs) -> tuple[float, bool]:
    """(lowest SQNR of the outputs of numbers, whether decisions and shapes are the same) over all feeds."""
    lowest, same = float("inf"), True
    for pair in pairs_of(reference, other):
        ratio, alike = _closeness(pair)
        lowest, same = min(lowest, ratio), same and alike
    return lowest, same


def strict_closeness(reference: Outputs, other: Outputs) -> float:
    """The lowest SQNR of the outputs of numbers; minus infinity where decisions or shapes differ."""
    ratio, same = closeness(reference, other)
    return ratio if same else -float("inf")


def _closeness(pair: Pair) -> tuple[float, bool]:
    if pair.changed_shapes:
        return float("inf"), False
    if not pair.numbers:
        return float("inf"), all(bool(np.all(a == b)) for a, b in pair.same_shape)
    noises = noises_of(pair)
    noise, signal = sum(n.noise for n in noises), sum(n.signal for n in noises)
    share = 0.0 if noise == 0 else noise / signal if signal > 0 else float("inf")
    return decibels(share), True


def first_divergence(
    saved: ModelProto, reference: ModelProto, feeds: Sequence[Feed], limit: float
) -> Divergence | None:
    """What both models compute in their main graph and is not within `limit` dB; None where that is nothing.

    A feed in which a decision comes first tells nothing of what follows, so the next one is looked at, too. Raises
    RuntimeFailure where the values inside cannot be asked for.
    """
    present = {o for node in saved.graph.node for o in node.output}
    names = [o for node in reference.graph.node for o in node.output if o in present and o]
    makers = {o: n for n in reference.graph.node for o in n.output}
    sessions = [Session(_wider(model, names), "exact") for model in (reference, saved)]
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
    """Whether the main graph holds an operator whose output jumps."""
    return any(node.op_type in _DECIDE - {"Cast"} for node in model.graph.node)


def _ratio(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("-inf")
    if not is_numbers(a):
        return float("inf") if bool(np.all(a == b)) else float("-inf")
    same = np.isnan(a) & np.isnan(b)
    x, y = (np.where(same, 0, v) for v in (a, b))
    if np.isnan(x).any() or np.isnan(y).any():
        return float("-inf")
    return sqnr_db(x, y) if x.any() else float("inf")


def _wider(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """`model` with the values `names` as outputs."""
    wider = ModelProto()
    wider.CopyFrom(model)
    known = {value.name for value in wider.graph.output}
    wider.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    return wider
