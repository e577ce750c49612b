"""Which form a weight takes in the file, from its operator, its size and the release to run on."""

from __future__ import annotations

from dataclasses import dataclass

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.model.operators import is_fusable
from mixquant_onnx.model.weights import WeightSite
from mixquant_onnx.numerics.scheme import Scheme


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """MatMulNBits of `bits` (8 or 4), with one scale for `block` weights along K."""

    bits: int
    block: int


def matmul_kernel(k: int, n: int, scheme: Scheme) -> Kernel | None:
    """The kernel that is not slower than float for a weight [k, n] at 1 to 256 rows with VNNI, and at 1 row
    without; None where none is.

    The bounds are where `tools/bench kernels` crosses 1.0 (docs/kernels.md), with a margin for other machines.
    A scale of the tensor or a channel is repeated for blocks of the size that the kernel runs best; codes of
    5 to 7 bits run as 8, and those of up to 4 bits too where the 8-bit kernel is the faster one.
    """
    block = scheme.grid.block
    four_bits = scheme.bits <= 4
    if k < 256 or n < 128 or k * n < 256 * 384:
        return None
    if block is None:
        if four_bits and k >= 512 and k * n >= 384 * 384:
            return Kernel(bits=4, block=128)
        return Kernel(bits=8, block=128 if k >= 1024 else 64)
    if block == 32 and min(k, n) >= 384 and k * n >= 384 * 1024:
        return Kernel(bits=4 if four_bits and k * n >= 768 * 1024 else 8, block=32)
    if block == 64:
        return Kernel(bits=4 if four_bits and k * n >= 768 * 1024 else 8, block=64)
    if block in (128, 256) and k >= 512:
        return Kernel(bits=4 if four_bits and k * n >= 384 * 384 else 8, block=block)
    return None


def kernel_for(site: WeightSite, scheme: Scheme, options: FormOptions) -> Kernel | None:
    """The fused kernel for a site that MatMul or Gemm alone reads, directly, as its second input."""
    if options.target != "ort" or options.fused == "never" or options.min_ort < FUSED_PAYS_FROM:
        return None
    if len(site.shape) != 2 or site.dtype != "float32":
        return None
    if any(not use.direct or not is_fusable(use.op, use.input) for use in site.uses):
        return None
    k, n = matmul_shape(site)
    return matmul_kernel(k, n, scheme)


def matmul_shape(site: WeightSite) -> tuple[int, int]:
    """(K, N) of a two-dimensional weight, whichever way it is stored."""
    rows, columns = site.shape
    return (columns, rows) if site.layout.p == 1 else (rows, columns)
