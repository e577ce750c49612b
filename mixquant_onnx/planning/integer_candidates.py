"""Candidates of a weight whose layer runs on an integer kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.activations import Cpu
from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.export.targets.integer_kernels import FIRST_SYMMETRIC, WIDEST
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.planning.error_table import ErrorRow, site_errors


def integer_errors(
    site: WeightTensor, weight: NDArray[np.generic], options: SearchOptions, cpu: Cpu, estimate: bool = False
) -> ErrorRow:
    """QE of a weight at every width that its kernel supports, symmetric where the kernel needs it.

    Args:
        site: The weight.
        weight: Its values.
        options: Candidates.
        cpu: The processors on which the result must be right.
        estimate: Whether errors of slow methods may be estimated.

    Returns:
        The candidates and the baseline.
    """
    allowed = [bits for bits in options.bits if bits <= WIDEST[cpu]]
    narrow = tuple(bits for bits in allowed if bits < FIRST_SYMMETRIC)
    wide = tuple(bits for bits in allowed if bits >= FIRST_SYMMETRIC)
    groups = [replace(options, bits=narrow), replace(options, bits=wide, symmetric=True)]
    rows = [site_errors(site, weight, group, estimate) for group in groups if group.bits]
    return replace(rows[0], candidates=tuple(candidate for row in rows for candidate in row.candidates))
