"""Stored codes of a weight that is too large to be decoded at once, decoded by ONNX Runtime in slices of its rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.errors import ProofError
from mixquant_onnx.export.encodings.bit_planes import shifts
from mixquant_onnx.export.encodings.decoder_functions import DOMAIN
from mixquant_onnx.model.scopes import Scope
from mixquant_onnx.model.tensor_data import release, values_of
from mixquant_onnx.numerics.rows import effective_grid
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.quantization.slices import sliced
from mixquant_onnx.runtime.session import Session
from mixquant_onnx.verification.codes import decode_with_runtime, model_like

_AT_ONCE = 1 << 23
"""Weights of a slice; decoding takes about 13 bytes for each."""


def check_by_slices(model: ModelProto, scope: Scope, value: str, name: str, q: QuantizedTensor) -> bool:
    """Decode slices of a weight and compare them with its dequantized codes, bit by bit.

    Args:
        model: The written model.
        scope: Its main graph.
        value: Name of the value there that is the weight.
        name: Name of the weight, for the message.
        q: The quantized weight.

    Returns:
        Whether that was possible: not for codes that are no bit planes of whole bytes in each row, and not for blocks.

    Raises:
        ProofError: A stored weight differs.
        RuntimeFailure: ONNX Runtime does not decode it.
    """
    node = next(node for node in scope.body.node if value in node.output)
    row = math.prod(q.codes.shape[1:])
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    if node.domain != DOMAIN or grid.block is not None or row % 8 or q.codes.ndim < 2 or q.dtype != "float32":
        return False
    count = len(shifts(q.scheme.bits))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    planes = [values_of(stored[plane]) for plane in node.input[:count]]
    zero, scale = (decode_with_runtime(model, scope, [part])[0] for part in node.input[count : count + 2])
    step = max(1, _AT_ONCE // row)
    for start in range(0, len(q.codes), step):
        rows = slice(start, min(start + step, len(q.codes)))
        wanted = sliced(q, (rows,)) if q.layout.p else replace(q, codes=q.codes[rows])
        given = [*(_rows_of(plane, rows, len(q.codes)) for plane in planes), zero, scale]
        got = _decoded(model, node, given, wanted, rows)
        if not np.array_equal(got, wanted.dequantize(np.dtype(np.float32))):
            told = f"verification failed at '{name}' ({q.scheme}): its stored codes do not decode to its weights"
            raise ProofError(told)
        release(q.codes)
    return True


def _rows_of(plane: NDArray[np.uint8], rows: slice, count: int) -> NDArray[np.uint8]:
    """The bytes of some rows, of a plane in any shape."""
    each = len(plane) // count
    return plane[rows.start * each : rows.stop * each]


def _decoded(
    model: ModelProto, node: NodeProto, given: list[NDArray[np.generic]], wanted: QuantizedTensor, rows: slice
) -> NDArray[np.float32]:
    """What the node gives for some rows."""
    *planes, zero, scale = given
    kept = [part[rows] if len(part) > 1 else part for part in (zero, scale)]
    values: list[NDArray[np.generic]] = [*planes, kept[0].astype(np.uint8), kept[1].astype(wanted.scale.dtype)]
    if len(node.input) > len(values):
        values.append(np.array(wanted.codes.shape, np.int64))
    names = [f"input{place}" for place in range(len(values))]
    alone = NodeProto()
    alone.CopyFrom(node)
    del alone.input[:], alone.output[:]
    alone.input.extend(names)
    alone.output.append("weight")
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), n) for v, n in zip(values, names, strict=True)]
    output = helper.make_tensor_value_info("weight", TensorProto.FLOAT, None)
    graph = helper.make_graph([alone], "rows", [], [output], tensors)
    return np.asarray(Session(model_like(model, graph)).run({})[0])
