"""One weight at many widths at once: the factorisation of its inputs' moments serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.integers import levels
from mixquant_onnx.numerics.quadratic import quadratic_error
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.quantization.methods import surrogate
from mixquant_onnx.quantization.ranges import lattice
from mixquant_onnx.quantization.rounding import gptq
from mixquant_onnx.quantization.rounding.objective import Problem, Rows
from mixquant_onnx.quantization.rounding.shrinkage import best_sample_weight, is_to_choose
from mixquant_onnx.quantization.weight import (
    as_rows,
    calibrated_ranges,
    grouped_rows,
    output_rows,
    quantize_weight,
    rows_in_grid,
    with_levels,
)

_AT_ONCE = 1 << 22
"""Weights, counted once for each width, that are rounded at once: 16 MiB an array. Does not change the result."""

_TRIAL_BITS = 4
"""Width at which shrinkage is chosen; the same shrinkage serves all widths (docs/research/selection.md)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Solved:
    """One candidate of a weight, fitted to the inputs that it has in the float model.

    Attributes:
        q: Codes, scales and zero points.
        error: Mean squared error of the layer's output, relative to the output's mean square.
    """

    q: QuantizedTensor
    error: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SolvedWeight:
    """All candidates of a weight.

    Attributes:
        candidates: By scheme.
        sample_weight: Number of independent samples that each sample of the inputs counts as.
    """

    candidates: dict[Scheme, Solved]
    sample_weight: float


def solve_widths(
    site: WeightTensor, weight: NDArray[np.generic], schemes: Sequence[Scheme], inputs: SecondMoments
) -> SolvedWeight:
    """Quantize a weight by each of several schemes, with gptq on shared moments.

    Args:
        site: Shape, axes and type of the weight.
        weight: Its values.
        schemes: Schemes of calibrated methods.
        inputs: Second moments of the layer's inputs in the float model, with halves where shrinkage is to be chosen.

    Returns:
        The candidates, in the order of `schemes`.
    """
    rows = grouped_rows(site, weight, inputs)
    ordered = sorted(schemes, key=lambda s: str(s.grid))
    chosen = _shrinkage(site, ordered, rows, inputs)
    inputs = replace(inputs, sample_weight=chosen)
    matrix = inputs.shrunk()
    factor = gptq.factorised(matrix)
    signal = quadratic_error(rows, matrix)
    found: dict[Scheme, Solved] = {}
    for _, group in groupby(ordered, key=lambda s: str(s.grid)):
        same = list(group)
        in_grid = rows_in_grid(site, weight, same[0])
        made = [calibrated_ranges(site, scheme, rows, inputs, rounds=0) for scheme in same]
        for scheme, q in zip(same, _solved(made, rows, matrix, factor), strict=True):
            exact = lattice.fit(in_grid, scheme.bits, scheme.symmetric)
            best = q if exact is None else quantize_weight(site, weight, surrogate(scheme))
            values = output_rows(site.layout, best.dequantize(np.dtype(np.float32))).reshape(rows.shape)
            noise = quadratic_error(values - rows, matrix)
            found[scheme] = Solved(q=replace(best, scheme=scheme), error=noise / signal if signal > 0 else 0.0)
    return SolvedWeight(candidates={scheme: found[scheme] for scheme in schemes}, sample_weight=chosen)


def _shrinkage(site: WeightTensor, schemes: Sequence[Scheme], rows: Rows, inputs: SecondMoments) -> float:
    if not is_to_choose(inputs):
        return inputs.sample_weight
    trial = min(schemes, key=lambda s: abs(s.bits - _TRIAL_BITS))
    made = calibrated_ranges(site, trial, rows, inputs, rounds=0)
    return best_sample_weight(_problem([made], rows, slice(None), inputs.shrunk()), rows, inputs)


def _solved(made: Sequence[QuantizedTensor], rows: Rows, matrix: Rows, factor: gptq.Factor) -> list[QuantizedTensor]:
    """`made` with codes; the same rows at each width stand below each other."""
    groups, count, width = rows.shape
    at_once = max(1, _AT_ONCE // (groups * width * len(made)))
    parts: list[list[Rows]] = [[] for _ in made]
    for first in range(0, count, at_once):
        part = slice(first, min(first + at_once, count))
        found = gptq.solve(_problem(made, rows, part, matrix), factor)
        for own, levels_ in zip(parts, np.split(found, len(made), axis=1), strict=True):
            own.append(levels_)
    return [with_levels(q, np.concatenate(own, axis=1)) for q, own in zip(made, parts, strict=True)]


def _problem(made: Sequence[QuantizedTensor], rows: Rows, part: slice, matrix: Rows) -> Problem:
    """The rounding of a part of `rows` [groups, n, K] by each of `made`, one below the other."""
    groups, count, _ = rows.shape

    def stacked(kind: str) -> Rows:
        each = [as_rows(q, getattr(q, kind)).reshape(groups, count, -1)[:, part] for q in made]
        return np.concatenate(each, axis=1)

    some = rows[:, part]
    each = [levels(q.scheme.bits) for q in made]
    highest = np.repeat(each, some.shape[1]).astype(np.float32)[None, :, None] if len(each) > 1 else each[0]
    return Problem(
        target=np.tile(some, (1, len(made), 1)),
        scale=stacked("scale"),
        zero_point=stacked("zero_point"),
        highest=highest,
        matrix=matrix,
    )
