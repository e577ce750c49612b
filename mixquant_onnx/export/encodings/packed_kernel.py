"""Codes as ONNX Runtime's kernels read them: nothing is unpacked at load, and a session holds the codes alone.

A weight becomes tensors and one node `mixquant.Packed`, which `export/packed_operators.py` makes the kernel of its
readers; no file holds that node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from onnx import TensorProto

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM
from mixquant_onnx.export.encodings import decoder_functions as functions
from mixquant_onnx.export.encodings.bit_planes import pack_fields
from mixquant_onnx.export.encodings.builder import Builder, Encoded, FreshName
from mixquant_onnx.export.encodings.matmul_nbits import Kernel
from mixquant_onnx.export.encodings.storage import Release, Storage
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor

PACKED = "Packed"
"""Stands for a kernel until its readers are known."""

EXPAND_FROM_OPSET = 8
"""The first opset with Expand."""

Reads = Literal["product", "table", "both"]
"""What reads a weight: MatMulNBits, a product with [K, N]; GatherBlockQuantized, rows of a table; or both the same."""


_KERNELS: dict[Reads, str] = {
    "product": "MatMulNBits", "table": "GatherBlockQuantized", "both": "GatherBlockQuantized, MatMulNBits",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedKernel(Storage):
    """A weight for a kernel of com.microsoft.

    Attributes:
        kernel: Width of the stored codes, and values that share a scale.
        reads: What reads it.
        transpose: Whether a product's weight was stored as [N, K] (Gemm with transB).
    """

    opset: int = EXPAND_FROM_OPSET
    needs: int = EXPAND_FROM_OPSET
    kernel: Kernel
    reads: Reads
    transpose: bool = False
    fused: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The kernel and its width."""
        return f"{_KERNELS[self.reads]} {self.kernel.bits}"

    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """See `encode_packed`; a weight whose axes are swapped has a new name."""
        value = fresh(f"{output}.transposed") if self.transpose else output
        return encode_packed(q, value, self, opset, fresh)

    def loads_from(self, opset: int) -> Release:
        """The first release on which these kernels were tested."""
        return FUSED_PAYS_FROM

    def not_slower_from(self) -> Release:
        """The same release."""
        return FUSED_PAYS_FROM

    @property
    def needs_vnni(self) -> bool:
        """Whether it is a product, whose kernel is faster at many rows only with VNNI (docs/research/kernels.md)."""
        return self.reads != "table"

    @property
    def by_row(self) -> bool:
        """Whether the weight is stored with its outputs, or the rows of a table, first."""
        return self.reads != "product" or self.transpose


def encode_packed(q: QuantizedTensor, output: str, how: PackedKernel, opset: int, fresh: FreshName) -> Encoded:
    """Packed codes, scales and zero points, and one node that stands for the kernel.

    Args:
        q: A weight [K, N] of float32, or [N, K] with `transpose`; or a table [rows, columns].
        output: Name of the value that the node stands for.
        how: The kernel.
        opset: Opset of the model.
        fresh: Gives an unused name.

    Returns:
        What replaces the weight: tensors with a row for each output of a product, or each row of a table.

    Source:
        com.microsoft MatMulNBits-1 and GatherBlockQuantized-1: codes of 4 bits with the first in the low bits.
    """
    builder, kernel = Builder(q, output, opset, fresh), how.kernel
    codes = q.codes if how.by_row else q.codes.T
    rows, length = codes.shape
    groups = -(-length // kernel.block)
    if how.reads != "table":
        whole = np.pad(codes, ((0, 0), (0, -length % kernel.block)))
        packed = packed_rows(whole, kernel.bits).reshape(rows, groups, -1)
    else:
        packed = packed_rows(codes, kernel.bits)
    inputs = [builder.store("packed", packed, counted=True)]
    scale, zero = (_by_row(values, rows, how) for values in (q.scale, q.zero_point))
    inputs.append(_scales(builder, scale, (rows, groups)))
    inputs.append(_zeros(builder, zero, (rows, groups), kernel.bits))
    if how.reads == "both":
        inputs += _of_blocks(builder, inputs[1], inputs[2], (rows, groups), kernel.bits)
    builder.node(
        PACKED, inputs, output, "packed", domain=functions.DOMAIN,
        length=length, rows=rows, bits=kernel.bits, block=kernel.block,
    )  # fmt: skip
    return builder.finish(output)


def _of_blocks(builder: Builder, scales: str, zeros: str, shape: tuple[int, int], bits: int) -> list[str]:
    """Scales and zero points of a product [rows, blocks] for a table of codes [rows, blocks, bytes], made at load.

    Its kernel takes one zero point of each block from the low bits of a byte.
    """
    rows, groups = shape
    made = [builder.fresh(f"{builder.name}.{part}") for part in ("block_scales", "block_zeros")]
    each = builder.shape("block_shape", (rows, groups, 1))
    builder.node("Reshape", [scales, each], made[0], "per_block")
    if bits == 4 and groups > 1:
        pairs, high, both = (builder.fresh(f"{builder.name}.{part}") for part in ("pairs", "high", "both"))
        builder.node("Reshape", [zeros, builder.shape("pairs_shape", (rows, -1, 1))], pairs, "pair")
        four = builder.store("four", np.array([4], np.uint8))
        builder.node("BitShift", [pairs, four], high, "shift", direction="RIGHT")
        builder.node("Concat", [pairs, high], both, "join", axis=2)
        zeros = both
    builder.node("Reshape", [zeros, each], made[1], "per_block_zero")
    return made


def packed_rows(codes: Codes, bits: int) -> Codes:
    """Rows of codes as bytes: of 4 bits two in a byte, the first in the low bits; the length is even then."""
    if bits == 8:
        return codes
    return pack_fields(codes.reshape(-1), bits).reshape(len(codes), -1)


def _by_row(params: FloatArray, rows: int, how: PackedKernel) -> FloatArray:
    """[rows, groups], or [rows, 1] for a scale of each row, or [1, 1] for one of all, from [P, G, Q]."""
    found: FloatArray = params[:, :, 0] if how.by_row else params[0].T
    return found


def _scales(builder: Builder, scale: FloatArray, shape: tuple[int, int]) -> str:
    """Scales as float32, one for each block."""
    value = builder.store("scale", scale, counted=True)
    if scale.dtype != np.float32:
        stored, value = value, builder.fresh(f"{builder.name}.scale32")
        builder.node("Cast", [stored], value, "cast", to=TensorProto.FLOAT)
    return _repeated(builder, value, scale.shape, shape, "scales")


def _zeros(builder: Builder, zero: Codes, shape: tuple[int, int], bits: int) -> str:
    """Zero points as bytes, those of a row packed as its codes are."""
    rows, groups = shape
    if zero.shape == shape:
        whole = np.pad(zero, ((0, 0), (0, groups % (8 // bits))))
        return builder.store("zero_point", packed_rows(whole, bits), counted=True)
    value = builder.store("zero_point", zero if bits == 8 else (zero | zero << 4).astype(np.uint8), counted=True)
    return _repeated(builder, value, zero.shape, (rows, -(-groups * bits // 8)), "zeros")


def _repeated(builder: Builder, value: str, now: tuple[int, ...], shape: tuple[int, int], part: str) -> str:
    """A value of a row, or of all rows, for each of its blocks; repeated when the model is loaded."""
    if now == shape:
        return value
    made = builder.fresh(f"{builder.name}.{part}")
    builder.node("Expand", [value, builder.shape(f"{part}_shape", shape)], made, "repeat")
    return made
