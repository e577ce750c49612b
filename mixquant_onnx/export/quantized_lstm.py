"""LSTMs on 8-bit integers: DynamicQuantizeLSTM of ONNX Runtime in place of LSTM, and back for the verification.

No form in standard operators becomes this kernel, as the state is rounded inside of it at every step.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.export.encodings.builder import FreshName
from mixquant_onnx.export.opset import import_domain
from mixquant_onnx.model.dependencies import drop_initializers, unread_initializers
from mixquant_onnx.model.operators import domain_of
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.tensor_data import values_of

KERNEL = "DynamicQuantizeLSTM"
_DOMAIN = "com.microsoft"
_STANDARD_INPUTS = 8
_WEIGHTS = {1: 8, 2: 10}
"""Inputs of the two weights, and of their scales."""


def quantize_lstms(model: ModelProto, weights: set[str], fresh: FreshName) -> None:
    """Put the kernel in place of LSTMs both of whose weights are dequantized by rows.

    Args:
        model: The model; it is changed.
        weights: Values that `lstm_kernel.encode_rows` computes.
        fresh: Gives an unused name.

    Source:
        ONNX LSTM-14; com.microsoft DynamicQuantizeLSTM-1.
    """
    graph, maker = model.graph, {name: node for node in model.graph.node for name in node.output}
    lstms = [n for n in graph.node if n.op_type == "LSTM" and not domain_of(n) and {n.input[1], n.input[2]} <= weights]
    old = set[str]()
    for node in lstms:
        node.op_type, node.domain = KERNEL, _DOMAIN
        node.input.extend([""] * (_STANDARD_INPUTS - len(node.input)))
        zero = ""
        for index in _WEIGHTS:
            reshape = maker[node.input[index]]
            dequantize = maker[reshape.input[0]]
            shape = tuple(values_of(_tensor(model, reshape.input[1])).tolist())
            scale = values_of(_tensor(model, dequantize.input[1])).reshape(shape[:2])
            # With one zero point for each direction, the second direction has the first one's scales.
            zero = zero or _store(model, fresh(f"{node.input[index]}.zero"), np.zeros(shape[:2], np.int8))
            node.input.extend([_store(model, fresh(f"{node.input[index]}.scales"), scale), zero])
            old.add(dequantize.input[1])
            levels = fresh(f"{node.input[index]}.levels")
            dequantize.CopyFrom(helper.make_node("Reshape", [dequantize.input[0], reshape.input[1]], [levels]))
            reshape.CopyFrom(helper.make_node("Transpose", [levels], [node.input[index]], perm=[0, 2, 1]))
    if lstms:
        drop_initializers(model, old & unread_initializers(model))
        import_domain(model, _DOMAIN)


def plain_lstms(model: ModelProto) -> ModelProto:
    """A copy with LSTM and dequantized weights in place of the kernel; the model itself where it has none.

    Args:
        model: A model as `quantize_lstms` leaves it.

    Returns:
        The copy, whose weights have their names.
    """
    if not any(_is_kernel(node) for node in model.graph.node):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    fresh, maker = fresh_names(copy), {name: node for node in copy.graph.node for name in node.output}
    for node in copy.graph.node:
        if not _is_kernel(node):
            continue
        for index, scale in _WEIGHTS.items():
            transpose = maker[node.input[index]]
            reshape = maker[transpose.input[0]]
            scales = values_of(_tensor(copy, node.input[scale])).reshape(-1)
            stored, flat = _store(copy, fresh(f"{node.input[index]}.rows"), scales), fresh(f"{node.input[index]}.flat")
            codes, shape = reshape.input
            reshape.CopyFrom(helper.make_node("DequantizeLinear", [codes, stored], [flat], axis=0))
            transpose.CopyFrom(helper.make_node("Reshape", [flat, shape], [node.input[index]]))
        node.op_type, node.domain = "LSTM", ""
        del node.input[_STANDARD_INPUTS:]
    return copy


def _is_kernel(node: NodeProto) -> bool:
    return bool(node.op_type == KERNEL and node.domain == _DOMAIN)


def _tensor(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def _store(model: ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name
