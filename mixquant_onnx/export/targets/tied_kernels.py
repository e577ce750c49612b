"""Selection of tables that are a product's weight too (a tied embedding and head), for one copy of their codes."""

from __future__ import annotations

from mixquant_onnx.export.encodings.matmul_nbits import Kernel
from mixquant_onnx.model.constant_paths import Reader
from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.weights import LocatedWeight, WeightTensor
from mixquant_onnx.numerics.scheme import Scheme


def is_tied(site: WeightTensor) -> bool:
    """Whether rows of a table are taken, and products read it too."""
    return {use.op for use in site.uses} in ({"Gather", "MatMul"}, {"Gather", "Gemm"}) and len(site.shape) == 2


def can_share(located: LocatedWeight, scheme: Scheme, kernel: Kernel) -> bool:
    """Whether kernels of all readers can read the same codes.

    Args:
        located: A tied table of float32, in the main graph.
        scheme: Its scheme.
        kernel: The kernel of the product.

    Returns:
        False where rows do not end with a block, zero points of 4 bits cannot be split, or a reader is another one.
    """
    columns, block = located.site.shape[1], kernel.block
    if columns % block or block & (block - 1) or not all(map(_reads_rows, located.readers)):
        return False
    blocks = columns // block
    whole_bytes = kernel.bits == 8 or scheme.grid.block is None or blocks == 1 or blocks % 2 == 0
    return whole_bytes and scheme.grid.per != "tensor"


def _reads_rows(reader: Reader) -> bool:
    """Whether a node takes rows, or multiplies with the transposed table."""
    at, steps = attributes(reader.node), [step.op for step in reader.steps]
    if reader.node.op_type == "Gather":
        return reader.index == 0 and not steps and at.get("axis", 0) == 0
    if reader.node.op_type == "Gemm":
        plain = at.get("alpha", 1.0) == 1.0 and at.get("beta", 1.0) == 1.0 and not at.get("transA", 0)
        return plain and reader.index == 1 and not steps and at.get("transB", 0) == 1
    return reader.node.op_type == "MatMul" and reader.index == 1 and steps == ["Transpose"]
