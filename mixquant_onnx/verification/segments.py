"""Equivalence of two graphs between the values that both round.

A difference in the last bit of a float becomes a whole step behind a QuantizeLinear, and many layers later another
output. Cut at every rounding, and fed with the same rounded values, two graphs that compute the same agree to float
rounding everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, TensorProto, helper

from mixquant_onnx.export.activations import ROUNDING
from mixquant_onnx.model.taps import with_outputs
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.runtime.session import Feed, Session
from mixquant_onnx.verification.divergence import Divergence, closeness

Rounding = tuple[str, str]
"""Names of a value before QuantizeLinear and after the following DequantizeLinear."""


def roundings(model: ModelProto) -> list[Rounding]:
    """The values of the main graph that are rounded.

    Args:
        model: The model.

    Returns:
        Pairs in the order of the graph.
    """
    codes = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in ROUNDING}
    nodes = (n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in codes)
    return [(codes[node.input[0]], node.output[0]) for node in nodes]


def least_agreement(reference: ModelProto, saved: ModelProto, feeds: Sequence[Feed]) -> Divergence | None:
    """Compare two graphs piece by piece.

    Args:
        reference: The float graph with dequantized weights.
        saved: The written model.
        feeds: Batches.

    Returns:
        The value of least SQNR between them, of those before a rounding and the outputs; None where the graphs do not
        round the same values, or there are none.

    Raises:
        RuntimeFailure: A piece does not run.
    """
    pairs = roundings(reference)
    if not pairs or sorted(pairs) != sorted(roundings(saved)):
        return None
    rounded = [after for _, after in pairs]
    source = Session(with_outputs(reference, rounded), "as_written")
    cut = [Session(_cut(model, pairs), "as_written") for model in (reference, saved)]
    worst: Divergence | None = None
    for feed in feeds:
        given = {**feed, **dict(zip(rounded, source.run(feed, rounded), strict=True))}
        want, got = (session.run(_used(given, session)) for session in cut)
        for name, one, other in zip(cut[0].outputs, want, got, strict=True):
            ratio, same = closeness(_alone(one), _alone(other))
            found = ratio if same else -float("inf")
            if worst is None or found < worst.before:
                worst = Divergence(where=f"'{name}'", decision=False, before=found)
    return worst


def _alone(value: Any) -> Outputs:
    return [[value]]


def _used(given: Feed, session: Session) -> Feed:
    return {name: value for name, value in given.items() if name in session.inputs}


def _cut(model: ModelProto, pairs: Sequence[Rounding]) -> ModelProto:
    """A copy without roundings: rounded values are inputs, and values that would be rounded are outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, after = copy.graph, {name for _, name in pairs}
    given = {value.name for value in graph.input}
    kept = [node for node in graph.node if not after & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(after))
    outputs = [value for value in graph.output if value.name not in after]
    known = {value.name for value in outputs} | given
    before = dict.fromkeys(name for name, _ in pairs if name not in known)
    del graph.output[:]
    graph.output.extend([*outputs, *(helper.make_empty_tensor_value_info(name) for name in before)])
    return copy
