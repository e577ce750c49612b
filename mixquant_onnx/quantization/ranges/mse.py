"""Ranges that minimise the squared error of rounding to nearest.

Both ends of the range are searched, coarse to fine: a grid over all ranges that can be better than min-max, neighbours
of the best, then its scale and zero point separately. Each candidate is evaluated by its exact error as stored, over
all weights of the row.

Source:
    Nagel et al. 2021, arXiv 2106.08295, section 3.1; the search is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.integers import levels, storable_scale
from mixquant_onnx.numerics.rounding_error import row_errors
from mixquant_onnx.quantization.ranges import minmax
from mixquant_onnx.quantization.ranges.exact_errors import Candidates, Choice, Rows, stored_scale
from mixquant_onnx.quantization.ranges.minmax import Range, row_range, scale_of, zero_point_of
from mixquant_onnx.quantization.ranges.nearest import code_bounds

_AT_ONCE = 1 << 18
"""Weights whose rows are searched together. Affects speed and memory alone."""

_GRID = 64
"""Candidates on the grid: 8 for each end, or 64 when symmetric."""

_WIDEST = 1.06
"""Largest multiple of min-max that is tried for an end; takes 10 % off the error of 8 bits in blocks of 32."""

_SAMPLE = 1 << 15
_FEWEST_ROWS = 32
_WORTH_IT = 4
"""Weights and rows of the sample on which errors of a large tensor are estimated, and the size, in samples, from which
it is worthwhile. Affects the time of plans' comparison.
"""

_ROUNDS = 3
"""Rounds of neighbours, each at half the distance."""

Fit = tuple[FloatArray, Codes, float]
"""Scale as stored and zero point of each row, and the squared error of all rows."""


class _Search:
    """Search for the best candidate of each of N rows, starting at min-max.

    `ends` [D, N] are the distances of the ends from 0, in units of the min-max scale; when symmetric, D is 1.
    """

    def __init__(self, candidates: Candidates, span: Range, bits: int, symmetric: bool, half: bool) -> None:
        self.candidates, self.top, self.half, positive = candidates, levels(bits), half, levels(bits) // 2
        self.unit = scale_of(span, bits, symmetric)
        self.scale = stored_scale(self.unit, half)
        self.zero = np.zeros_like(self.unit) + zero_point_of(span, self.scale, bits, symmetric)
        self.error = candidates.errors(self.scale[None], self.zero[None], self.top)[0]
        self.ends: Rows = np.stack([-span[0] / self.unit, span[1] / self.unit])
        inner = (candidates.innermost(self.error) / self.unit).astype(np.float32)
        if symmetric:
            self.ends = np.full((1, len(self.unit)), positive, np.float32)
            inner = np.maximum(inner[:1] * np.float32(positive / (positive + 1)), inner[1:])
        # Half a step beyond min-max the last level is unused, but the others may fit the weights of a short row better.
        self.outer = self.ends * np.float32(_WIDEST) + np.float32(0.5)
        self.inner = np.maximum(inner, np.float32(1e-3))

    def run(self) -> None:
        """Try the grid, neighbours at half its pitch and less, then scale and zero point separately."""
        dimensions = len(self.ends)
        count = round(_GRID ** (1 / dimensions))
        pitch = (self.inner / self.outer) ** np.float32(1 / (count - 1))
        steps = self.outer[:, None] * pitch[:, None] ** np.arange(count, dtype=np.float32)[:, None]
        places = np.array(list(product(range(count), repeat=dimensions))).T
        self._try_ends(np.stack([values[place] for values, place in zip(steps, places, strict=True)]))
        around = [move for move in product((-1, 0, 1), repeat=dimensions) if any(move)]
        moves = np.array(around, np.float32).T[:, :, None]
        for turn in range(_ROUNDS):
            self._try_ends(self.ends[:, None] * np.power(pitch[:, None], moves / np.float32(2 << turn)))
        wider, higher = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)][: 2 * dimensions], np.float32).T[:, :, None]
        for turn in range(_ROUNDS):
            factor = 1 + wider * (0.2 / (self.top + 1) ** 0.5 / (1 << turn))
            ends = np.repeat(self.ends[:, None], len(wider), axis=1)
            self._try(ends, stored_scale(self.scale * factor, self.half), np.clip(self.zero + higher, 0, self.top))

    def _try_ends(self, ends: Rows) -> None:
        if len(ends) == 1:
            scale = stored_scale(ends[0] / np.float32(self.top // 2) * self.unit, self.half)
            self._try(ends, scale, np.broadcast_to(self.zero, scale.shape))
        else:
            scale = stored_scale((ends[0] + ends[1]) / np.float32(self.top) * self.unit, self.half)
            self._try(ends, scale, np.clip(np.rint(ends[0] * (self.unit / scale)), 0, self.top))

    def _try(self, ends: Rows, scale: Rows, zero: Rows) -> None:
        """Evaluate candidates [K, N] with the `ends` [D, K, N] that they come from."""
        errors = self.candidates.errors(scale, zero, self.top)
        best = errors.argmin(axis=0)
        rows = np.flatnonzero(errors.min(axis=0) < self.error)
        best = best[rows]
        self.ends[:, rows], self.error[rows] = ends[:, best, rows], errors[best, rows]
        self.scale[rows], self.zero[rows] = scale[best, rows], zero[best, rows]


def _fits(rows: Rows, widths: Sequence[int], symmetric: bool) -> list[Fit]:
    """The best found for `rows` [N, M] at each of `widths`; never worse than min-max, on any row."""
    span = row_range(rows)
    scales = [storable_scale(scale_of(span, bits, symmetric)) for bits in widths]
    # One scale too small for float16 makes all of them float32; the search must not cause that.
    halves = [scale.dtype == np.float16 for scale in scales]
    zeros = [
        np.broadcast_to(zero_point_of(span, scale, bits, symmetric), len(rows)).copy()
        for scale, bits in zip(scales, widths, strict=True)
    ]
    found = [scale.astype(np.float32) for scale in scales]
    totals = [0.0] * len(widths)
    at_once = max(1, _AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        choice = Choice(rows[part])
        for k, bits in enumerate(widths):
            search = _Search(choice.at(bits), (span[0][part], span[1][part]), bits, symmetric, halves[k])
            with np.errstate(over="ignore"):
                search.run()
            zero = search.zero.astype(np.uint8)
            errors, before = (
                row_errors(rows[part], s, *code_bounds(z, bits, len(z)))
                for s, z in ((search.scale, zero), (found[k][part], zeros[k][part]))
            )
            better = errors < before
            found[k][part] = np.where(better, search.scale, found[k][part])
            zeros[k][part] = np.where(better, zero, zeros[k][part])
            totals[k] += float(np.minimum(errors, before).sum())
    stored = [storable_scale(scale) for scale in found]
    return [(s, z[:1] if symmetric else z, total) for s, z, total in zip(stored, zeros, totals, strict=True)]


def fit(rows: Rows, bits: int, symmetric: bool) -> tuple[FloatArray, Codes]:
    """Ranges with the least squared error found; never worse than min-max, on any row.

    Args:
        rows: Weights [N, M].
        bits: Width of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        Scale as stored [N] and zero point [N], or [1] when symmetric.
    """
    scale, zero, _ = _fits(rows, [bits], symmetric)[0]
    return scale, zero


def errors(rows: Rows, bits: Sequence[int], symmetric: bool) -> list[float]:
    """Sum of squared errors of `fit` at several widths.

    Args:
        rows: Weights [N, M].
        bits: Widths of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        One sum over all weights for each of `bits`.
    """
    return [total for _, _, total in _fits(rows, bits, symmetric)]


def estimated_errors(rows: Rows, bits: Sequence[int], symmetric: bool) -> list[float]:
    """Estimates of `errors`, for comparisons of plans.

    In a large tensor, only the rows of widest range and a sample of the others are searched; the sample's gain over
    min-max is assumed for all others. On the fetched models the estimate is at most 4 % from the full search, in at
    most a third of its time.

    Args:
        rows: Weights [N, M].
        bits: Widths of the codes, 2 to 8.
        symmetric: Whether the zero point is fixed at the middle code.

    Returns:
        One sum over all weights for each of `bits`.
    """
    every = min(rows.size // _SAMPLE, len(rows) // _FEWEST_ROWS)
    if every < _WORTH_IT:
        return errors(rows, bits, symmetric)
    low, high = row_range(rows)
    order = np.argsort(low - high, kind="stable")
    widest, others = rows[order[: len(rows) // every]], rows[order[len(rows) // every :]]
    some = np.ascontiguousarray(others[every // 2 :: every])
    seen, whole = (minmax.errors(given, bits, symmetric) for given in (some, others))
    found = [[total for _, _, total in _fits(part, bits, symmetric)] for part in (widest, some)]
    return [
        top + (mid * all_ / part if part > 0 else all_)
        for top, mid, all_, part in zip(*found, whole, seen, strict=True)
    ]
