"""Equality of two graphs that round their own activations, or decide by a comparison.

A QuantizeLinear, an ArgMax or a Round turns a difference in the last bit of a float into a whole step. ONNX Runtime
makes such differences by itself: under default options it runs QuantizeLinear / Conv / DequantizeLinear as one integer
kernel, and rounds float weights between them to 8 bits (its WeightBiasQuantization). So a right file and its oracle,
optimized differently, need not agree. With that turned off both compute every rounding as it is written, and must
agree; what the optimizations then change may not be more than what they, or a small change of the weights, change in
the oracle itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from mixquant_onnx.model.scopes import walk
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session

Outputs = list[list[Any]]
Ratio = Callable[[Outputs, Outputs], float]
"""Lowest SQNR over the outputs, in dB."""

JITTER = 2.0**-16
"""Relative change of the weights that shows how far a graph carries small differences: some hundred times float32's
rounding, so that a product of a long sum is covered; 4 epsilon for coarser types."""

MARGIN_DB = 10.0
"""Both sides are single draws of the same steps: on quantized ResNet-20 and MobileNetV2 the optimized file was up to
2.3 dB further from its oracle than the oracle from its jittered self; a wrong kernel leaves 0 to 10 dB in all."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def agree_as_written(
    reference: ModelProto, saved: ModelProto, feeds: Sequence[Feed], optimized: float, limit: float, ratio: Ratio
) -> float | None:
    """SQNR in dB of `saved` against its oracle `reference`, every rounding computed as written; None where they differ.

    `optimized`: SQNR of the two under the options whose disagreement is to be explained, in dB. `limit`: least SQNR
    of two graphs that are the same. None also where the oracle itself is less sensitive than `optimized` would need.
    """
    try:
        plain = _outputs(reference, feeds)
        found = ratio(plain, _outputs(saved, feeds))
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
    session = Session(model, "as_written")
    return [session.run(feed) for feed in feeds]


def _jittered(model: ModelProto) -> ModelProto:
    """A copy with every matrix of floats changed by its own small share."""
    copy = ModelProto()
    copy.CopyFrom(model)
    random = np.random.default_rng(0)
    for tensor in _matrices(copy):
        value = numpy_helper.to_array(tensor)
        size = max(JITTER, 4 * float(np.finfo(value.dtype).eps))
        changed = value * (1 + size * random.choice([-1.0, 1.0], value.shape))
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(value.dtype), tensor.name))
    return copy


def _matrices(model: ModelProto) -> Iterator[TensorProto]:
    for scope in walk(model):
        stored = list(scope.body.initializer) if isinstance(scope.body, GraphProto) else []
        for node in scope.body.node:
            stored += [a.t for a in node.attribute if node.op_type == "Constant" and a.HasField("t")]
        yield from (t for t in stored if t.data_type in _FLOATS and len(t.dims) >= 2)
