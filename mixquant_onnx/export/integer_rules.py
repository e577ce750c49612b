"""What is written in place of operators without an integer kernel, one rule each (docs/research/activations.md).

To add one, write a function from a node to what replaces it, and add it to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import NodeProto, helper

from mixquant_onnx.export.substitutes import Context, Substitute
from mixquant_onnx.model.operators import attributes, domain_of

Rule = Callable[[NodeProto, Context], Substitute | None]
"""What replaces a node; None where the rule does not apply."""


def hard_sigmoid(node: NodeProto, context: Context) -> Substitute | None:
    """HardSigmoid as a sum with a constant, clipped, and a product: QLinearAdd, whose codes clip.

    Source:
        ONNX HardSigmoid-6.
    """
    if not _is(node, "HardSigmoid") or not context.is_float(node.input[0]):
        return None
    given = attributes(node)
    alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
    if not (alpha > 0 and beta > 0):
        return None
    return Substitute(before=_copy(node), after=tuple(_clipped(node.input[0], alpha, beta, node.output[0], context)))


def _clipped(x: str, alpha: float, beta: float, result: str, context: Context) -> Iterator[NodeProto]:
    """Clip(x + beta / alpha, 0, 1 / alpha) * alpha: the product goes into the scale of the codes."""
    total, clipped = context.fresh(f"{result}.sum"), context.fresh(f"{result}.clipped")
    yield helper.make_node("Add", [x, context.scalar(beta / alpha)], [total])
    yield helper.make_node("Clip", [total, context.scalar(0.0), context.scalar(1 / alpha)], [clipped])
    yield helper.make_node("Mul", [clipped, context.scalar(alpha)], [result])


def hard_swish(node: NodeProto, context: Context) -> Substitute | None:
    """HardSwish as the product with a HardSigmoid: QLinearMul.

    Source:
        ONNX HardSwish-14.
    """
    if not _is(node, "HardSwish") or not context.is_float(node.input[0]):
        return None
    gate = context.fresh(f"{node.output[0]}.gate")
    nodes = tuple(_clipped(node.input[0], 1 / 6, 0.5, gate, context))
    product = helper.make_node("Mul", [node.input[0], gate], [node.output[0]])
    return Substitute(before=_copy(node), after=(*nodes, product))


def mean_of_image(node: NodeProto, context: Context) -> Substitute | None:
    """ReduceMean over the last two of four axes as GlobalAveragePool.

    Source:
        ONNX ReduceMean-18, GlobalAveragePool-1.
    """
    if not _is(node, "ReduceMean") or len(context.shape(node.input[0]) or ()) != 4:
        return None
    axes = context.integers(node, "axes", 1)
    if not attributes(node).get("keepdims", 1) or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    after = helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]])
    return Substitute(before=_copy(node), after=(after,))


def average_pool(node: NodeProto, context: Context) -> Substitute | None:
    """AveragePool as a convolution with constant weights, which is 3 to 8 times faster than QLinearAveragePool.

    With a border that does not count, it stays, and a Sum behind it keeps ONNX Runtime from that kernel.

    Source:
        ONNX AveragePool-11, ConvInteger of which QLinearConv-10 is the rounded form.
    """
    shape = context.shape(node.input[0]) if _is(node, "AveragePool") else None
    if shape is None or len(shape) != 4 or not context.is_float(node.input[0]):
        return None
    given = attributes(node)
    pads, automatic = given.get("pads", [0] * 4), given.get("auto_pad", b"NOTSET")
    counted = not any(pads) or given.get("count_include_pad", 0)
    plain = automatic in (b"NOTSET", "NOTSET") and not given.get("ceil_mode", 0)
    if plain and counted and shape[1]:
        return Substitute(before=_copy(node), after=tuple(_mean_of_window(node, shape[1], list(pads), context)))
    pooled = context.fresh(f"{node.output[0]}.pooled")
    kept = _copy(node)
    kept.output[0] = pooled
    return Substitute(before=_copy(node), after=(kept, helper.make_node("Sum", [pooled], [node.output[0]])))


_ONE = 64
"""The code of every weight of a mean: as much as a code of 7 bits may be."""


def _mean_of_window(node: NodeProto, channels: int, pads: list[int], context: Context) -> Iterator[NodeProto]:
    given = attributes(node)
    kernel = list(given["kernel_shape"])
    codes = context.constant(np.full((channels, 1, *kernel), _ONE, np.int8))
    scale = context.scalar(1 / (_ONE * kernel[0] * kernel[1]))
    weight = context.fresh(f"{node.output[0]}.mean")
    yield helper.make_node("DequantizeLinear", [codes, scale], [weight])
    yield helper.make_node(
        "Conv", [node.input[0], weight], [node.output[0]], kernel_shape=kernel, pads=pads, group=channels,
        strides=list(given.get("strides", [1, 1])), dilations=list(given.get("dilations", [1, 1])),
    )  # fmt: skip


def split(node: NodeProto, context: Context) -> Substitute | None:
    """Split as one Slice for each part, which keeps codes.

    Source:
        ONNX Split-18, Slice-13.
    """
    if not _is(node, "Split") or not context.is_float(node.input[0]):
        return None
    shape, axis = context.shape(node.input[0]), attributes(node).get("axis", 0)
    size = None if shape is None else shape[axis]
    sizes = context.integers(node, "split", 1)
    if sizes is None and size is not None and len(node.input) < 2:
        each = -(-size // len(node.output))
        sizes = [min(each, size - each * k) for k in range(len(node.output))]
    if sizes is None or len(sizes) != len(node.output) or not all(node.output):
        return None
    ends = np.cumsum([0, *sizes])
    cut = [context.constant(np.array([value], np.int64)) for value in (*ends, axis)]
    after = [
        helper.make_node("Slice", [node.input[0], cut[k], cut[k + 1], cut[-1]], [name])
        for k, name in enumerate(node.output)
    ]
    return Substitute(before=_copy(node), after=tuple(after))


def _is(node: NodeProto, op: str) -> bool:
    return bool(node.op_type == op and not domain_of(node))


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


RULES: tuple[Rule, ...] = (hard_sigmoid, hard_swish, mean_of_image, average_pool, split)
