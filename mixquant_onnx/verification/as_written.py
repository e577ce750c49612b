"""Equivalence of two graphs that round their own activations, or decide by a comparison.

QuantizeLinear, ArgMax and Round turn a difference in the last bit of a float into a whole step. ONNX Runtime causes
such differences: with its default options it runs QuantizeLinear, Conv and DequantizeLinear as one integer kernel, and
rounds float weights between them to 8 bits (its WeightBiasQuantization). A correct file and its reference are optimized
differently and need not agree. Without that optimization both compute every rounding as written and must agree. The
optimization may then change the file no more than it, or a small change of the weights, changes the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session
from mixquant_onnx.verification.segments import least_agreement

Ratio = Callable[[Outputs, Outputs], float]
"""Lowest SQNR over the outputs, in dB."""

JITTER = 2.0**-16
"""Relative change of the weights by which the sensitivity of a graph is measured: 128 times float32's epsilon, so that
sums of many products are covered; 4 epsilon for coarser types."""

MARGIN_DB = 10.0
"""Largest excess in dB of the distance between the optimized file and its reference over that between the reference and
its jittered copy. On quantized ResNet-20 and MobileNetV2 it was up to 2.3 dB; a wrong kernel leaves an SQNR of 0 to 10
dB.
"""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def agree_as_written(
    reference: ModelProto, saved: ModelProto, feeds: Sequence[Feed], optimized: float, limit: float, ratio: Ratio
) -> float | None:
    """Compare the written model with its reference, every rounding computed as written.

    Args:
        reference: The float graph with dequantized weights.
        saved: The written model.
        feeds: Batches to compare on.
        optimized: SQNR in dB of the two under ONNX Runtime's optimizations, which is to be explained.
        limit: Least SQNR in dB of two equivalent graphs.
        ratio: Lowest SQNR in dB of two lists of outputs.

    Returns:
        SQNR in dB of the outputs, or else the least of the pieces between roundings; None where it is below `limit`, or
        where the reference is less sensitive than `optimized` requires.
    """
    try:
        plain = _outputs(reference, feeds)
        found = ratio(plain, _outputs(saved, feeds))
        if not found >= limit:
            piece = least_agreement(reference, saved, feeds)
            found = -float("inf") if piece is None else piece.before
        if not found >= limit:
            return None
        own = min(
            ratio(plain, [Session(reference, "exact").run(feed) for feed in feeds]),
            ratio(plain, _outputs(_jittered(reference), feeds)),
        )
    except RuntimeFailure:
        return None
    return found if optimized >= own - MARGIN_DB else None


def _outputs(model: ModelProto, feeds: Sequence[Feed]) -> Outputs:
    """Outputs with every rounding computed as written."""
    session = Session(model, "as_written")
    return [session.run(feed) for feed in feeds]


def _jittered(model: ModelProto) -> ModelProto:
    """A copy with every matrix of floats multiplied by 1 + `JITTER` or 1 - `JITTER`, at random."""
    copy = ModelProto()
    copy.CopyFrom(model)
    random = np.random.default_rng(0)
    for tensor in _matrices(copy):
        value = values_of(tensor)
        size = max(JITTER, 4 * float(np.finfo(value.dtype).eps))
        changed = value * (1 + size * random.choice([-1.0, 1.0], value.shape))
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(value.dtype), tensor.name))
    return copy


def _matrices(model: ModelProto) -> Iterator[TensorProto]:
    """The stored float tensors of rank 2 and more, of all scopes."""
    for scope in walk(model):
        stored = list(scope.body.initializer) if isinstance(scope.body, GraphProto) else []
        for node in scope.body.node:
            stored += [a.t for a in node.attribute if node.op_type == "Constant" and a.HasField("t")]
        yield from (t for t in stored if t.data_type in _FLOATS and len(t.dims) >= 2)
