"""Which form a weight takes in the file, from its operator, its size and the release to run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixquant_onnx.types import Scheme, WeightSite

Target = Literal["ort", "qdq"]

FUSED_PAYS_FROM = (1, 25)
"""The first onnxruntime whose MatMulNBits fusion takes 8 bits and is not slower than float (docs/releases.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FormOptions:
    """target: `ort` or `qdq`. exact: MatMul is folded too. native_types: no width without an ONNX type."""

    target: Target = "ort"
    exact: bool = False
    native_types: bool = False
    min_ort: tuple[int, int] = FUSED_PAYS_FROM


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """MatMulNBits of `bits` (8 or 4), with one scale for `block` weights along K."""

    bits: int
    block: int


def matmul_kernel(k: int, n: int, scheme: Scheme) -> Kernel | None:
    """The kernel that is not slower than float for a weight [k, n] at 1 to 256 rows; None where none is.

    Measured by `tools/bench kernels` (docs/kernels.md). A tensor or channel scale is repeated for blocks of
    the size that the kernel runs best; codes of 5 to 7 bits run as 8.
    """
    if min(k, n) < 128 or k < 256:
        return None
    block = scheme.grid.block
    if block is not None:
        if block not in (32, 64, 128, 256):
            return None
        if block == 32 and (min(k, n) < 384 or k * n < 384 * 1024):
            return None
        if block == 64 and k * n < 256 * 256:
            return None
        if scheme.bits <= 4 and k * n >= 768 * 768:
            return Kernel(bits=4, block=block)
        return Kernel(bits=8, block=block)
    if k * n < 256 * 256:
        return None
    if scheme.bits <= 4 and k >= 512 and k * n >= 384 * 384:
        return Kernel(bits=4, block=128)
    return Kernel(bits=8, block=128 if k >= 1024 else 64)


def kernel_for(site: WeightSite, scheme: Scheme, options: FormOptions) -> Kernel | None:
    """The fused kernel for a site that MatMul or Gemm alone reads, directly, as its second input."""
    if options.target != "ort" or options.exact or options.min_ort < FUSED_PAYS_FROM:
        return None
    if len(site.shape) != 2 or site.dtype != "float32":
        return None
    if any(use.op not in ("MatMul", "Gemm") or use.input != 1 or not use.direct for use in site.uses):
        return None
    k, n = matmul_shape(site)
    return matmul_kernel(k, n, scheme)


def matmul_shape(site: WeightSite) -> tuple[int, int]:
    """(K, N) of a two-dimensional weight, whichever way it is stored."""
    rows, columns = site.shape
    return (columns, rows) if site.layout.p == 1 else (rows, columns)
