"""Standard ONNX (`--target qdq`): DequantizeLinear before every weight, for other runtimes and compilers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from mixquant_onnx.export.encodings import folded
from mixquant_onnx.export.encodings.dequantize_linear import DequantizeLinear, least_opset, opset_for
from mixquant_onnx.export.encodings.storage import NEVER, Storage
from mixquant_onnx.export.targets import integer_kernels
from mixquant_onnx.export.targets.releases import Releases, releases_of
from mixquant_onnx.export.targets.target import Offer, best_opsets, offered
from mixquant_onnx.export.weight_in_model import WeightInModel, matmul_shape


def dequantize_linear(weight: WeightInModel) -> DequantizeLinear:
    """DequantizeLinear where it supports the granularity, and where ONNX Runtime runs the optimized graph.

    Args:
        weight: The weight.

    Returns:
        Its storage.
    """
    site, scheme = weight.site, weight.scheme
    needs = least_opset(site.shape, site.layout, scheme.grid)
    return DequantizeLinear(
        bits=scheme.bits,
        opset=opset_for(site.shape, site.layout, scheme.grid, scheme.bits),
        needs=NEVER if weight.breaks_dequantized() else needs,
        two_bits=not _two_bits_broken(weight),
        small_ints=weight.options.small_ints,
    )


ENCODINGS: tuple[Offer, ...] = (integer_kernels.offer, dequantize_linear, folded.offer)
"""The encodings of this target, the best first, one row each."""


def storages_for(weight: WeightInModel) -> list[Storage]:
    """See `Target`: DequantizeLinear where the opset supports it, else folded at load."""
    return offered(ENCODINGS, weight)


def opsets(storages: Collection[Storage], smaller_at: Callable[[int], bool]) -> list[int]:
    """See `Target`: the best opsets of the storages, whatever the file size: the target requires standard operators."""
    return best_opsets(storages)


def oldest_runtime(storages: Collection[Storage], opset: int) -> Releases:
    """See `Target`: releases of onnxruntime, which dequantizes most weights at every run."""
    found = releases_of(storages, opset)
    always_slower = any(storage.not_slower_from() is None for storage in storages)
    return replace(found, not_slower_from="no release (--target qdq)") if always_slower else found


def _two_bits_broken(weight: WeightInModel) -> bool:
    """Whether ONNX Runtime 1.31 fuses the weight's 2-bit MatMul incorrectly: N is not a multiple of 4."""
    if not any(reader.node.op_type in ("MatMul", "Gemm") for reader in weight.located.readers):
        return False
    return len(weight.site.shape) != 2 or matmul_shape(weight.site)[1] % 4 != 0
