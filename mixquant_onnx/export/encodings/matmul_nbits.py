"""Codes with a blocked DequantizeLinear, which ONNX Runtime fuses with the MatMul that reads it to MatMulNBits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM, SMALL_INTS_FROM
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.storage import EVERY_RELEASE, Release, Storage
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor

KERNELS_FROM_OPSET = 21
"""The first opset with DequantizeLinear in blocks, and with UINT4 (DequantizeLinear-21)."""

CAST_TO_UINT4_FROM: Release = (1, 23)
"""The first onnxruntime with Cast to UINT4 (docs/research/releases.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A MatMulNBits kernel.

    Attributes:
        bits: Width that it computes with, 8 or 4.
        block: Weights along K that share a scale.
    """

    bits: Literal[8, 4]
    block: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MatMulNBits(Storage):
    """A weight [K, N] for a fused kernel.

    Attributes:
        kernel: The kernel that runs.
        transpose: Whether the tensor was stored as [N, K] (Gemm with transB).
        many_rows: Whether it may be multiplied by more than one row, where the kernel is faster only with VNNI.
    """

    opset: int = KERNELS_FROM_OPSET
    needs: int = KERNELS_FROM_OPSET
    kernel: Kernel
    transpose: bool = False
    many_rows: bool = False
    fused: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The kernel and its width, which may differ from that of the codes."""
        return f"MatMulNBits {self.kernel.bits}"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_matmul`; a weight whose axes are swapped has a new name."""
        value = fresh(f"{output}.transposed") if self.transpose else output
        return encode_matmul(q, value, self.kernel, self.transpose, opset, fresh)

    def loads_from(self, opset: int) -> Release:
        """The first release with the operators of the decoder, and for the 4-bit kernel with Cast to UINT4."""
        codes = SMALL_INTS_FROM if functions.is_narrow(self.bits, opset) else EVERY_RELEASE
        return max(codes, CAST_TO_UINT4_FROM) if self.kernel.bits == 4 else codes

    def not_slower_from(self) -> Release:
        """The first release whose fusion is not slower than float."""
        return FUSED_PAYS_FROM

    @property
    def needs_vnni(self) -> bool:
        """Without VNNI the kernels are faster than float at one row alone (docs/research/kernels.md)."""
        return self.many_rows


def encode_matmul(
    q: QuantizedTensor, output: str, kernel: Kernel, transpose: bool, opset: int, fresh: FreshName
) -> Encoded:
    """Bit planes, scales and zero points, and one node that computes the weight [K, N].

    Args:
        q: A weight [K, N] of float32, or [N, K] with `transpose`.
        output: Name of the value that the node computes.
        kernel: The kernel that ONNX Runtime is to run.
        transpose: Whether to swap the axes.
        opset: Opset of the model, 21 or later.
        fresh: Gives an unused name.

    Returns:
        What replaces the weight.

    Source:
        ONNX DequantizeLinear-21 with `block_size`.
    """
    codes = q.codes.T if transpose else q.codes
    k, n = codes.shape
    groups = -(-k // kernel.block)
    builder = Builder(q, output, opset, fresh)
    form: functions.Form = "matmul8" if kernel.bits == 8 else "matmul4"
    variant = functions.Variant(bits=q.scheme.bits, form=form, tail=builder.tail, opset=opset)
    scale, zero = (_by_column(values, transpose) for values in (q.scale, q.zero_point))
    inputs = builder.store_codes(codes, (k, n))
    scales = builder.store("scale", scale, counted=True)
    inputs += [
        builder.store_zero(zero, scales),
        scales,
        builder.shape("shape", (k, n)),
        builder.shape("scale_shape", (groups, n)),
    ]
    extra = builder.count(variant, inputs)
    extra["block_size"] = kernel.block
    builder.call(functions.build(variant), inputs, output, "dequantize", extra)
    return builder.finish(output)


def _by_column(params: FloatArray, transpose: bool) -> FloatArray:
    """[groups, N] from [P, G, Q]: columns are Q of [K, N] and P of [N, K]."""
    return params[:, :, 0].T if transpose else params[0]
