"""Selection of the weights of LSTMs that run on DynamicQuantizeLSTM."""

from __future__ import annotations

from onnx import NodeProto

from mixquant_onnx.export.encodings.lstm_kernel import LstmKernel
from mixquant_onnx.export.targets.integer_kernels import are_few, suits_kernels
from mixquant_onnx.export.weight_in_model import WeightInModel
from mixquant_onnx.model.operators import attributes, domain_of
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.rows import effective_grid

LEAST_ELEMENTS = 1 << 16
"""Elements of a weight from which on the kernel is faster than float: 128 units (docs/research/activations.md)."""

_PLAIN_ATTRIBUTES = frozenset({"hidden_size", "direction"})
"""Attributes of an LSTM with no others than defaults."""


def offer(weight: WeightInModel) -> LstmKernel | None:
    """The integer kernel that runs a weight.

    Args:
        weight: The weight.

    Returns:
        Its storage; None where its layer does not run on integers, or its codes are not suitable.
    """
    site, scheme, cpu = weight.site, weight.scheme, weight.options.integer
    if not cpu or not in_lstm(weight.located):
        return None
    grid = effective_grid(site.shape, site.layout, scheme.grid)
    return LstmKernel(bits=scheme.bits, plain=are_few(weight)) if suits_kernels(scheme, grid, cpu) else None


def in_lstm(located: LocatedWeight) -> bool:
    """Whether a weight is read by one LSTM alone, which the kernel can stand for.

    Args:
        located: The weight.

    Returns:
        False for small ones too.
    """
    site, readers = located.site, located.readers
    if site.dtype != "float32" or site.elements < LEAST_ELEMENTS or len(site.shape) != 3 or len(readers) != 1:
        return False
    reader = readers[0]
    inside = reader.scope.parent is not None or reader.scope.is_function
    return not inside and not reader.steps and reader.index in (1, 2) and _is_plain(reader.node)


def _is_plain(node: NodeProto) -> bool:
    given = {name for name, value in attributes(node).items() if name in _PLAIN_ATTRIBUTES or value not in (0, 0.0)}
    return node.op_type == "LSTM" and not domain_of(node) and given <= _PLAIN_ATTRIBUTES
