"""Selection of the weights that run on ONNX Runtime's MatMulNBits kernels, by operator, size and scheme."""

from __future__ import annotations

from onnx import GraphProto, NodeProto

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.encodings.matmul_nbits import Kernel, MatMulNBits
from mixquant_onnx.export.weight_in_model import WeightInModel, matmul_shape
from mixquant_onnx.model.operators import attributes, is_fusable
from mixquant_onnx.model.weights import LocatedWeight, WeightTensor
from mixquant_onnx.numerics.scheme import Scheme


def offer(weight: WeightInModel) -> MatMulNBits | None:
    """The fused kernel that runs a weight no slower than float.

    A product that ONNX Runtime would run on integers, because its other operand is dequantized too, is not fused.

    Args:
        weight: The weight.

    Returns:
        Its storage; None where there is no such kernel.
    """
    if weight.meets_dequantized():
        return None
    kernel = kernel_for(weight.site, weight.scheme, weight.options)
    if kernel is None or not _fusable(weight.located):
        return None
    always = weight.options.fused in ("always", "packed")
    if not always and not weight.sees_one_row():
        return None
    transpose = _is_transposed(weight.located)
    return MatMulNBits(bits=weight.scheme.bits, kernel=kernel, transpose=transpose, many_rows=always)


def kernel_for(site: WeightTensor, scheme: Scheme, options: FormOptions) -> Kernel | None:
    """The fused kernel for a weight that only MatMul or Gemm read, directly, as the second input.

    Args:
        site: The weight.
        scheme: Its scheme.
        options: Options of the file.

    Returns:
        The kernel; None where there is none.
    """
    if options.fused == "never" or options.min_ort < FUSED_PAYS_FROM:
        return None
    if len(site.shape) != 2 or site.dtype != "float32":
        return None
    if any(not use.direct or not is_fusable(use.op, use.input) for use in site.uses):
        return None
    k, n = matmul_shape(site)
    return matmul_kernel(k, n, scheme)


def matmul_kernel(k: int, n: int, scheme: Scheme) -> Kernel | None:
    """The kernel that is not slower than float, at 1 to 256 rows with VNNI and at 1 row without.

    A scale of the tensor or a channel is repeated for blocks of the kernel's fastest size; codes of 5 to 7 bits run as
    8, and codes of up to 4 bits too where the 8-bit kernel is faster.

    Args:
        k: Inputs of the product.
        n: Outputs of the product.
        scheme: Scheme of the weight [k, n].

    Returns:
        The kernel; None where all are slower.

    Source:
        The bounds are where `tools/bench kernels` crosses 1.0 (docs/research/kernels.md), with a margin for
        other machines.
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


def _fusable(located: LocatedWeight) -> bool:
    """Whether every reader is a node of a graph that can be changed (a function's cannot, for one of its calls)."""
    if located.source.scope.in_function or any(r.scope.in_function for r in located.readers):
        return False
    gemms = [r.node for r in located.readers if r.node.op_type == "Gemm"]
    if gemms and (len(gemms) != len(located.readers) or not all(_plain(node) for node in gemms)):
        return False
    return len({attributes(node).get("transB", 0) for node in gemms}) <= 1 and not _is_output(located)


def _is_output(located: LocatedWeight) -> bool:
    body = located.source.scope.body
    return isinstance(body, GraphProto) and any(v.name == located.source.name for v in body.output)


def _plain(gemm: NodeProto) -> bool:
    """Whether a Gemm is MatMul + Add."""
    at = attributes(gemm)
    return not at.get("transA", 0) and at.get("alpha", 1.0) == 1.0 and at.get("beta", 1.0) == 1.0


def _is_transposed(located: LocatedWeight) -> bool:
    """Whether a Gemm reads the weight as [N, K]."""
    gemms = [r.node for r in located.readers if r.node.op_type == "Gemm"]
    return bool(gemms) and bool(attributes(gemms[0]).get("transB", 0))
