"""Selection of the weights that run on ONNX Runtime's integer kernels: those whose input is rounded to 8 bits."""

from __future__ import annotations

from collections.abc import Collection

from mixquant_onnx.config.activations import Cpu
from mixquant_onnx.export.encodings.int8_kernel import Int8Kernel
from mixquant_onnx.export.weight_in_model import WeightInModel
from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.rows import effective_grid
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.activations.placement import INTEGER_OPERATORS

WIDEST: dict[Cpu, int] = {"any": 7, "vnni": 8}
"""Most bits of a weight. Kernels without VNNI add pairs of products of uint8 by int8 in 16 bits: 255 x (64 + 64) fits,
and 255 x (127 + 127) does not."""

FIRST_SYMMETRIC = 7
"""The least width whose zero point must be the middle code: codes of 7 bits minus any zero point reach 127, and of 8
bits 255."""

_NAMES = 150
_FUNCTIONS = 3000
"""Bytes that bit planes take more than int8: names, shapes and zero points of each weight, and the functions that all
share. Where fewer are saved by them, codes are stored as int8."""


def offer(weight: WeightInModel) -> Int8Kernel | None:
    """The integer kernel that runs a weight.

    Args:
        weight: The weight.

    Returns:
        Its storage; None where its layer does not run on integers, or its codes are not suitable.
    """
    site, scheme, cpu = weight.site, weight.scheme, weight.options.integer
    if not cpu or not on_integers(weight.located, weight.facts.dequantized):
        return None
    layout, grid = site.layout, effective_grid(site.shape, site.layout, scheme.grid)
    if not suits_kernels(scheme, grid, cpu) or (layout.p + layout.q != 1 and grid.per != "tensor"):
        return None
    transposes = {bool(attributes(reader.node).get("transB", 0)) for reader in weight.located.readers}
    if len(transposes) > 1:
        return None
    transpose = transposes == {True}
    axis = 0 if layout.p else layout.r
    return Int8Kernel(
        bits=scheme.bits,
        axis=1 - axis if transpose else axis,
        transpose=transpose,
        plain=are_few(weight),
    )


def suits_kernels(scheme: Scheme, grid: Granularity, cpu: Cpu) -> bool:
    """Whether integer kernels compute exactly with codes of a scheme.

    Args:
        scheme: The scheme.
        grid: Its grid, as `effective_grid` gives it.
        cpu: The processor.

    Returns:
        False for blocks, for codes that are too wide, and for wide ones around another code than the middle.
    """
    centred = scheme.bits < FIRST_SYMMETRIC or scheme.symmetric
    return grid.block is None and scheme.bits <= WIDEST[cpu] and centred


def are_few(weight: WeightInModel) -> bool:
    """Whether bit planes of a weight save fewer bytes than they take elsewhere.

    Args:
        weight: The weight.

    Returns:
        True where its codes are to be stored as int8.
    """
    saved = (8 - weight.scheme.bits) / 8
    return weight.site.elements * saved <= _NAMES or weight.facts.elements * saved <= _FUNCTIONS


def on_integers(located: LocatedWeight, dequantized: Collection[str]) -> bool:
    """Whether all layers of a weight read an input that is rounded to 8 bits.

    Args:
        located: The weight.
        dequantized: Names of the values that come from a DequantizeLinear.

    Returns:
        False where any reader is no Conv, MatMul or Gemm.
    """
    return bool(located.readers) and all(
        reader.node.op_type in INTEGER_OPERATORS
        and reader.index == 1
        and not reader.steps
        and reader.node.input[0] in dequantized
        for reader in located.readers
    )
