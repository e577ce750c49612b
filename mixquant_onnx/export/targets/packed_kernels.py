"""Selection of the weights that a session holds as codes (`--fused packed`): large products, and tables of rows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.encodings.matmul_nbits import Kernel
from mixquant_onnx.export.encodings.packed_kernel import PackedKernel
from mixquant_onnx.export.targets import fused_kernels
from mixquant_onnx.export.targets.tied_kernels import can_share, is_tied
from mixquant_onnx.export.weight_in_model import WeightInModel, matmul_shape
from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.weights import LocatedWeight, WeightTensor
from mixquant_onnx.numerics.rows import effective_grid, params_shape
from mixquant_onnx.numerics.scheme import Scheme

WIDTHS = (4, 8)
"""Widths that the kernels read."""

_LEAST_BLOCK = 16
"""The kernel of tables takes blocks of a power of two from here on."""

_LEAST_TABLE = 1 << 14
"""Values of a table from which on its float32 form is worth avoiding; a node is slower than Gather."""


def offer(weight: WeightInModel) -> PackedKernel | None:
    """The kernel that reads the codes of a weight.

    Args:
        weight: The weight.

    Returns:
        Its storage; None where no kernel reads it, or none is asked for.
    """
    form = weight.options.fused
    if form == "never" or weight.options.min_ort < FUSED_PAYS_FROM or not _in_main_graph(weight.located):
        return None
    return _product(weight) or _table(weight) or _tied(weight) if form == "packed" else _as_small_product(weight)


def holds_codes(options: FormOptions) -> bool:
    """Whether weights are held as codes wherever a kernel reads them, so that only its widths are worth choosing."""
    return options.fused == "packed" and options.target == "ort"


def _as_small_product(weight: WeightInModel) -> PackedKernel | None:
    """A product that takes no more bytes in the file than in any other form."""
    made, bits = fused_kernels.offer(weight), weight.scheme.bits
    if made is None or made.kernel.bits != bits or matmul_shape(weight.site)[0] % made.kernel.block:
        return None
    return PackedKernel(bits=bits, kernel=made.kernel, reads="product", transpose=made.transpose)


def _product(weight: WeightInModel) -> PackedKernel | None:
    made = fused_kernels.offer(weight)
    if made is None:
        return None
    length, _ = matmul_shape(weight.site)
    kernel = product_kernel(length, weight.scheme)
    return PackedKernel(bits=weight.scheme.bits, kernel=kernel, reads="product", transpose=made.transpose)


def product_kernel(length: int, scheme: Scheme) -> Kernel:
    """The kernel for a product, with the blocks that take the fewest bytes in memory.

    Args:
        length: Inputs of the product.
        scheme: Scheme of the weight; with blocks, of a size that kernels take.

    Returns:
        The kernel.
    """
    bits = _width(scheme)
    if scheme.grid.block is not None:
        return Kernel(bits=bits, block=scheme.grid.block)
    return Kernel(
        bits=bits, block=min(_BLOCKS, key=lambda block: -(-length // block) * (block * bits / 8 + 4 + bits / 8))
    )


_BLOCKS = (256, 128, 64, 32, 16)
"""Each block has a float32 scale and a zero point in memory. Longer ones are faster too: docs/research/kernels.md goes
to 128, and 256 took 0.78 to 0.98 of the time of 128 in 22 of 24 shapes."""


def packed_bytes(site: WeightTensor, scheme: Scheme) -> int:
    """Bytes of a weight's codes, scales and zero points in the file.

    Args:
        site: A weight of two axes that is packed.
        scheme: Its scheme.

    Returns:
        As `nbytes_of`, with codes in the width that is held and padded to whole blocks.
    """
    table = all(use.op == "Gather" for use in site.uses)
    rows, length = site.shape if table or is_tied(site) else matmul_shape(site)[::-1]
    kernel = (table_kernel(length, scheme) if table else None) or product_kernel(length, scheme)
    stored = length if table else -(-length // kernel.block) * kernel.block
    params = int(np.prod(params_shape(site.shape, site.layout, effective_grid(site.shape, site.layout, scheme.grid))))
    return rows * stored * kernel.bits // 8 + 3 * params


def _table(weight: WeightInModel) -> PackedKernel | None:
    located, site = weight.located, weight.site
    if not _only_gathered(located) or len(site.shape) != 2 or site.dtype != "float32" or site.elements < _LEAST_TABLE:
        return None
    kernel = table_kernel(site.shape[1], weight.scheme)
    return None if kernel is None else PackedKernel(bits=weight.scheme.bits, kernel=kernel, reads="table")


def _tied(weight: WeightInModel) -> PackedKernel | None:
    site, scheme = weight.site, weight.scheme
    if not is_tied(site) or site.dtype != "float32" or site.elements < _LEAST_TABLE:
        return None
    kernel = product_kernel(site.shape[1], scheme)
    if weight.meets_dequantized() or not can_share(weight.located, scheme, kernel):
        return None
    return PackedKernel(bits=scheme.bits, kernel=kernel, reads="both")


def table_kernel(columns: int, scheme: Scheme) -> Kernel | None:
    """The kernel for a table with a scale for all of it, each row, or each block of a row.

    Args:
        columns: Length of a row.
        scheme: Scheme of the table.

    Returns:
        The kernel; None where its blocks are none that it takes.
    """
    block = scheme.grid.block or max(_LEAST_BLOCK, 1 << (columns - 1).bit_length())
    if block < _LEAST_BLOCK or block & (block - 1):
        return None
    return Kernel(bits=8 if columns % 2 else _width(scheme), block=block)


def _width(scheme: Scheme) -> Literal[4, 8]:
    """The width in which codes are held."""
    return 4 if scheme.bits <= 4 else 8


def _only_gathered(located: LocatedWeight) -> bool:
    """Whether every reader takes rows of a table."""
    axes = {attributes(reader.node).get("axis", 0) for reader in located.readers}
    gathers = all((use.op, use.input, use.direct) == ("Gather", 0, True) for use in located.site.uses)
    return gathers and axes == {0}


def _in_main_graph(located: LocatedWeight) -> bool:
    """Whether a weight is in the main graph, and so are its readers, all of which read it as a weight."""
    scopes = (located.source.scope, *(reader.scope for reader in located.readers))
    inside = any(scope.path or scope.in_function for scope in scopes)
    return not inside and len(located.site.uses) == len(located.readers)
