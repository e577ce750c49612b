"""Whether sums of products of an integer layer fit in 16 bits, as kernels for processors without VNNI need.

Such kernels multiply uint8 by int8 and add neighbours with saturation (instruction VPMADDUBSW) before they add in 32
bits. Which weights are neighbours depends on the kernel, so any two weights of an output are taken to be.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixquant_onnx.export.encodings.int8_kernel import Int8Kernel
from mixquant_onnx.export.encodings.lstm_kernel import LstmKernel
from mixquant_onnx.export.encodings.storage import Storage
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.rows import effective_grid, expand_params, to_rows
from mixquant_onnx.numerics.scheme import QuantizedTensor

_LARGEST_INPUT = 255
_LIMITS = (-(1 << 15), (1 << 15) - 1)


def largest_pair(q: QuantizedTensor) -> tuple[int, int]:
    """The least and the greatest sum of two products of an output, over all inputs and pairs of weights.

    Args:
        q: The weight of an integer layer.

    Returns:
        Sums of products of uint8 inputs with codes minus their zero points.
    """
    grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)
    zero = expand_params(q.zero_point, q.codes.shape, q.layout, grid).astype(np.int32)
    rows = np.sort(to_rows(q.codes.astype(np.int32) - zero, q.layout, Granularity(per="channel")), axis=1)
    low, high = np.minimum(rows[:, :2], 0).sum(axis=1).min(), np.maximum(rows[:, -2:], 0).sum(axis=1).max()
    return int(low) * _LARGEST_INPUT, int(high) * _LARGEST_INPUT


def overflowing(quantized: Mapping[str, QuantizedTensor], storages: Mapping[str, Storage]) -> tuple[str, ...]:
    """The integer layers whose results may differ between processors with and without VNNI.

    Args:
        quantized: The weights by name.
        storages: How they are stored.

    Returns:
        Names of weights.
    """
    integer = (name for name, storage in storages.items() if isinstance(storage, Int8Kernel | LstmKernel))
    return tuple(name for name in integer if not _fits(largest_pair(quantized[name])))


def _fits(sums: tuple[int, int]) -> bool:
    return sums[0] >= _LIMITS[0] and sums[1] <= _LIMITS[1]
