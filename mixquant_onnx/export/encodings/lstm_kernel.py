"""Weights of an LSTM for DynamicQuantizeLSTM: int8 codes whose zero point is 0, written with DequantizeLinear first.

`export/quantized_lstm.py` makes one node of both weights and their LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from mixquant_onnx.config.activations import INTEGER_FROM_ORT
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.int8_kernel import centred
from mixquant_onnx.export.encodings.storage import SMALL_INTS_FROM_OPSET, Release, Storage
from mixquant_onnx.numerics.scheme import QuantizedTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LstmKernel(Storage):
    """A weight of an LSTM, [directions, 4 x hidden, inputs], with one scale for each row.

    Attributes:
        plain: Whether codes are stored as int8; else as bit planes.
    """

    opset: int = SMALL_INTS_FROM_OPSET
    needs: int = SMALL_INTS_FROM_OPSET
    plain: bool = False

    @property
    def name(self) -> str:
        """What the kernel multiplies by."""
        return "int8"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_rows`."""
        return encode_rows(q, output, self.plain, opset, fresh)

    def loads_from(self, opset: int) -> Release:
        """The first release on which integer execution was tested."""
        return INTEGER_FROM_ORT

    def not_slower_from(self) -> Release:
        """The same release."""
        return INTEGER_FROM_ORT


def encode_rows(q: QuantizedTensor, output: str, plain: bool, opset: int, fresh: FreshName) -> Encoded:
    """Codes minus their zero points as an int8 matrix, DequantizeLinear with one scale for each row, and Reshape.

    Args:
        q: A weight of float32 whose last axis is reduced, with one scale for all of it or for each row.
        output: Name of the value that the last node computes.
        plain: Whether codes are stored as int8.
        opset: Opset of the model, 14 or later.
        fresh: Gives an unused name.

    Returns:
        What replaces the weight.

    Source:
        ONNX DequantizeLinear-13 with `axis`.
    """
    builder, shape = Builder(q, output, opset, fresh), q.codes.shape
    rows, matrix = int(np.prod(shape[:-1])), (int(np.prod(shape[:-1])), shape[-1])
    zero = np.broadcast_to(q.zero_point.reshape(-1, 1), (rows, 1))
    if plain:
        level = builder.store("codes", centred(q.codes.reshape(matrix), zero), counted=True)
    else:
        codes, small, level = builder.unpacked_codes(matrix, True), fresh(f"{output}.small"), fresh(f"{output}.level")
        builder.node("Cast", [codes], small, "cast", to=TensorProto.INT8)
        stored = builder.store("zero_point", zero.astype(np.int8), counted=True)
        builder.node("Sub", [small, stored], level, "centre")
    scales = np.broadcast_to(q.scale.astype(np.float32).reshape(-1), (rows,))
    scale, flat = builder.store("scale", scales, counted=True), fresh(f"{output}.flat")
    builder.node("DequantizeLinear", [level, scale], flat, "dequantize", axis=0)
    builder.node("Reshape", [flat, builder.shape("shape", shape)], output, "reshape")
    return builder.finish(output)
