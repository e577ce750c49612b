"""The MixQuant search: quantization errors for weights x schemes, in time linear in weights x widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.config.stages import SearchOptions
from mixquant_onnx.export.encodings.outline import nbytes_of
from mixquant_onnx.model.weights import WeightSite
from mixquant_onnx.numerics.granularity import Grid, effective_grid, to_rows
from mixquant_onnx.numerics.scheme import Scheme
from mixquant_onnx.quantization.methods import method
from mixquant_onnx.quantization.ranges.minmax import baseline_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One candidate of one weight.

    Attributes:
        scheme: How it is quantized.
        qe: Mean squared error of the dequantized weight.
        nbytes: Size of codes, scales and zero points in bytes.
    """

    scheme: Scheme
    qe: float
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteErrors:
    """One weight as an allocator sees it.

    Attributes:
        site: Its name.
        elements: Number of values.
        power: Mean squared weight.
        baseline: The QE that QEM multiplies.
        cells: The candidates.
    """

    site: str
    elements: int
    power: float
    baseline: float
    cells: tuple[Cell, ...]


ErrorTable = Mapping[str, SiteErrors]
"""By the name of the weight."""


def site_errors(
    site: WeightSite, weight: NDArray[np.generic], options: SearchOptions, estimate: bool = False
) -> SiteErrors:
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
    cells: list[Cell] = []
    seen: set[Grid] = set()
    for wanted in options.grids:
        grid = effective_grid(site.shape, site.layout, wanted)
        if grid in seen:
            continue
        seen.add(grid)
        rows = to_rows(values, site.layout, grid)
        widths = [*options.bits, *([8] if baseline is None and 8 not in options.bits else [])]
        sums = method(options.method).errors(rows, widths, options.symmetric, estimate)
        if baseline is None:
            baseline = sums[widths.index(8)]
        for bits, total in zip(options.bits, sums, strict=False):
            scheme = Scheme(bits=bits, grid=wanted, method=options.method, symmetric=options.symmetric)
            cells.append(Cell(scheme=scheme, qe=total / count, nbytes=nbytes_of(site, scheme)))
    assert baseline is not None
    power = _power(values.reshape(-1))
    return SiteErrors(
        site=site.name,
        elements=count,
        power=power / count,
        baseline=baseline / count,
        cells=tuple(cells),
    )


def _power(flat: NDArray[np.float32]) -> float:
    """Sum of squares; in float64 where float32 overflows or underflows."""
    with np.errstate(over="ignore"):
        total = float(np.dot(flat, flat))
    return total if np.finfo(np.float32).tiny < total < np.inf else float(np.sum(np.square(flat, dtype=np.float64)))


def measure(
    sites: Sequence[WeightSite],
    value_of: Callable[[str], NDArray[np.generic]],
    options: SearchOptions,
    progress: Callable[[int], None] = lambda _: None,
    estimate: bool = False,
) -> Mapping[str, SiteErrors]:
    """The error table of a model.

    Runs on one thread: two gain nothing (measured), as each step is too short for the interpreter to switch threads.

    Args:
        sites: The weights.
        value_of: Gives the values of a weight by name.
        options: Widths, granularities, method and baseline.
        progress: Called with the elements of each finished weight.
        estimate: Whether errors of slow methods may be estimated.

    Returns:
        Errors by the name of the weight.
    """
    table = {}
    for site in sites:
        table[site.name] = site_errors(site, value_of(site.name), options, estimate)
        progress(site.elements)
    return table
