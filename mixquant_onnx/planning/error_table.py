"""The MixQuant search: quantization errors for weights x schemes, in time linear in weights x widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.export.encodings.outline import nbytes_of
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.rows import effective_grid, to_rows
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.methods import method
from mixquant_onnx.quantization.ranges.minmax import baseline_error, wide_scales
from mixquant_onnx.quantization.slices import slices_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One candidate of one weight.

    Attributes:
        scheme: How it is quantized.
        qe: Mean squared error of the dequantized weight.
        nbytes: Size of codes, scales and zero points in bytes.
        wide: Whether its scales are float32, as one is too small for float16; not asked of large weights.
    """

    scheme: Scheme
    qe: float
    nbytes: int
    wide: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRow:
    """One weight as an allocator sees it.

    Attributes:
        site: Its name.
        elements: Number of values.
        power: Mean squared weight.
        baseline: The QE that QEM multiplies.
        candidates: Its candidates.
    """

    site: str
    elements: int
    power: float
    baseline: float
    candidates: tuple[Candidate, ...]

    def relative(self, qe: float) -> float:
        """`qe` / mean(w^2); 0 for a weight of zeros."""
        return qe / self.power if self.power > 0 else 0.0


ErrorTable = Mapping[str, ErrorRow]
"""By the name of the weight."""


def row_to_json(row: ErrorRow) -> dict[str, Any]:
    """A row as values that `json` can write."""
    candidates = [[str(c.scheme), c.qe, c.nbytes, c.wide] for c in row.candidates]
    return {"elements": row.elements, "power": row.power, "baseline": row.baseline, "candidates": candidates}


def row_from_json(name: str, data: Mapping[str, Any]) -> ErrorRow:
    """The row of the weight `name` from what `row_to_json` gave."""
    return ErrorRow(
        site=name,
        elements=data["elements"],
        power=data["power"],
        baseline=data["baseline"],
        candidates=tuple(
            Candidate(scheme=Scheme.parse(scheme), qe=qe, nbytes=nbytes, wide=wide)
            for scheme, qe, nbytes, wide in data["candidates"]
        ),
    )


def site_errors(
    site: WeightTensor, weight: NDArray[np.generic], options: SearchOptions, estimate: bool = False
) -> ErrorRow:
    """QE of a weight at every candidate width and granularity.

    Args:
        site: The weight.
        weight: Its values.
        options: Widths, granularities, method and baseline.
        estimate: Whether errors of slow methods may be estimated.

    Returns:
        The candidates and the baseline.

    Source:
        Kloberdanz and Le 2023, arXiv 2309.17341: QE is the mean squared error of the dequantized weight.
    """
    values = np.ascontiguousarray(weight, dtype=np.float32)
    count = site.elements
    baseline = baseline_error(values) if options.baseline == "int8" else None
    known = method(options.method)
    cells: list[Candidate] = []
    seen: set[Granularity] = set()
    for wanted in options.grids:
        grid = effective_grid(site.shape, site.layout, wanted)
        if grid in seen:
            continue
        seen.add(grid)
        # An estimate is made from some rows of the whole weight.
        parts = [()] if known.estimates(estimate) else slices_of(site.shape, site.layout, grid)
        widths = [*options.bits, *([8] if baseline is None and 8 not in options.bits else [])]
        found = [
            known.errors(to_rows(values[p], site.layout, grid), widths, options.symmetric, estimate) for p in parts
        ]
        sums = [sum(column) for column in zip(*found, strict=True)]
        if baseline is None:
            baseline = sums[widths.index(8)]
        wide = _wide(site, values, grid, options)
        for bits, total, is_wide in zip(options.bits, sums, wide, strict=False):
            scheme = Scheme(bits=bits, grid=wanted, method=options.method, symmetric=options.symmetric)
            cells.append(Candidate(scheme=scheme, qe=total / count, nbytes=nbytes_of(site, scheme), wide=is_wide))
    assert baseline is not None
    power = _power(values.reshape(-1))
    return ErrorRow(
        site=site.name,
        elements=count,
        power=power / count,
        baseline=baseline / count,
        candidates=tuple(cells),
    )


_ALWAYS_WORTH_IT = 1 << 13
"""Weights of a tensor from which on the bytes of its scales do not decide whether it is stored quantized."""


def _wide(site: WeightTensor, values: NDArray[np.float32], grid: Granularity, options: SearchOptions) -> Sequence[bool]:
    """Whether a scale is too small for float16, at each width; of large weights that is not asked."""
    if site.elements >= _ALWAYS_WORTH_IT:
        return [False] * len(options.bits)
    return wide_scales(to_rows(values, site.layout, grid), options.bits, options.symmetric)


def wide_schemes(table: ErrorTable) -> frozenset[tuple[str, Scheme]]:
    """Names and schemes of all candidates whose scales are float32."""
    return frozenset((name, cell.scheme) for name, errors in table.items() for cell in errors.candidates if cell.wide)


def _power(flat: NDArray[np.float32]) -> float:
    """Sum of squares; in float64 where float32 overflows or underflows."""
    with np.errstate(over="ignore"):
        total = float(np.dot(flat, flat))
    return total if np.finfo(np.float32).tiny < total < np.inf else float(np.sum(np.square(flat, dtype=np.float64)))
