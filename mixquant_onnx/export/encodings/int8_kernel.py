"""Codes with a DequantizeLinear on int8 with zero point 0, which ONNX Runtime's integer kernels multiply by.

A code of up to 7 bits minus its zero point is from -127 to 127 whatever the zero point is, so that asymmetric codes of
fewer bits become symmetric codes of 8 without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.activations import INTEGER_FROM_ORT
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.storage import SMALL_INTS_FROM_OPSET, Release, Storage
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor

PER_CHANNEL_FROM_OPSET = 13
"""The first opset whose DequantizeLinear has a scale for each channel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Kernel(Storage):
    """A weight of a layer whose input is rounded to 8 bits.

    Attributes:
        axis: The axis of its scales, after `transpose`.
        transpose: Whether the tensor was stored as [N, K] (Gemm with transB).
        plain: Whether codes are stored as int8; else as bit planes.
    """

    opset: int = SMALL_INTS_FROM_OPSET
    needs: int = PER_CHANNEL_FROM_OPSET
    axis: int
    transpose: bool = False
    plain: bool = False
    fused: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What the kernel multiplies by."""
        return "int8"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_int8`; a weight whose axes are swapped has a new name."""
        value = fresh(f"{output}.transposed") if self.transpose else output
        encode = encode_plain if self.plain else encode_int8
        return encode(q, value, self.axis, self.transpose, opset, fresh)

    def loads_from(self, opset: int) -> Release:
        """The first release on which integer execution was tested."""
        return INTEGER_FROM_ORT

    def not_slower_from(self) -> Release:
        """The same release."""
        return INTEGER_FROM_ORT


def encode_int8(q: QuantizedTensor, output: str, axis: int, transpose: bool, opset: int, fresh: FreshName) -> Encoded:
    """Bit planes, scales and zero points, and one node that computes the weight by DequantizeLinear on int8.

    Args:
        q: A weight of float32, one scale for the tensor or for each channel; of 8 bits with zero point 128.
        output: Name of the value that the node computes.
        axis: The axis of the channels, after `transpose`.
        transpose: Whether to swap the axes of a matrix.
        opset: Opset of the model, 13 or later.
        fresh: Gives an unused name.

    Returns:
        What replaces the weight.

    Source:
        ONNX DequantizeLinear-13 with `axis`.
    """
    codes = q.codes.T if transpose else q.codes
    builder = Builder(q, output, opset, fresh)
    variant = functions.Variant(bits=q.scheme.bits, form="int8", tail=builder.tail, opset=opset)
    along = [1] * codes.ndim
    along[axis] = -1
    inputs = builder.store_codes(codes, codes.shape)
    scales = builder.store("scale", _channels(q.scale), counted=True)
    zero = q.zero_point.reshape(along) if q.zero_point.size > 1 else q.zero_point.reshape([1] * codes.ndim)
    inputs += [builder.store("zero_point", zero, counted=True), scales]
    if q.scheme.bits < 8:
        inputs.append(builder.shape("shape", codes.shape))
    extra = builder.count(variant, inputs)
    builder.call(functions.build(variant), inputs, output, "dequantize", {**extra, "axis": axis})
    return builder.finish(output)


def encode_plain(q: QuantizedTensor, output: str, axis: int, transpose: bool, opset: int, fresh: FreshName) -> Encoded:
    """Codes minus their zero points as int8, scales, and DequantizeLinear.

    Args:
        q: As `encode_int8`.
        output: As `encode_int8`.
        axis: As `encode_int8`.
        transpose: As `encode_int8`.
        opset: As `encode_int8`.
        fresh: As `encode_int8`.

    Returns:
        What replaces the weight.

    Source:
        ONNX DequantizeLinear-13 with `axis`.
    """
    codes = q.codes.T if transpose else q.codes
    along = [1] * codes.ndim
    along[axis] = -1
    zero = q.zero_point.reshape(along if q.zero_point.size > 1 else [1] * codes.ndim)
    builder = Builder(q, output, opset, fresh)
    scale = _channels(q.scale).astype(np.float32)
    inputs = [builder.store("codes", centred(codes, zero), counted=True), builder.store("scale", scale, counted=True)]
    builder.node("DequantizeLinear", inputs, output, "dequantize", axis=axis)
    return builder.finish(output)


def centred(codes: Codes, zero: Codes) -> NDArray[np.int8]:
    """Codes minus their zero points.

    Args:
        codes: The codes.
        zero: Zero points, broadcast.

    Returns:
        Levels as int8; differences must be from -128 to 127.
    """
    return (codes.astype(np.int16) - zero.astype(np.int16)).astype(np.int8)


def _channels(scale: FloatArray) -> FloatArray:
    """One scale for each channel, or one alone."""
    return scale.reshape(-1) if scale.size > 1 else np.ascontiguousarray(scale.reshape(()))
