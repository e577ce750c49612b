"""Coordinate descent: each weight takes the level that is optimal given all others of its row.

Started from GPTQ's codes it reduces the error that is left in columns which GPTQ had already fixed.

Source:
    QuantEase, Behdin et al. 2023, arXiv 2309.01885.
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.quantization.rounding.objective import Problem, Rounding, Rows

_BATCH = 64
"""Columns after which gradients are recomputed; does not change the result."""

_SWEEPS = 10
"""Most sweeps over all columns."""

_SETTLED = 1e-3
"""Share of weights changed in a sweep, below which it ends: later sweeps hardly reduce the error."""


def solve(problem: Problem, start: Rows, sweeps: int = _SWEEPS) -> Rows:
    """Improve a solution of `problem`.

    Args:
        problem: The rounding problem.
        start: Levels [groups, n, K].
        sweeps: Most sweeps over all columns.

    Returns:
        Levels [groups, n, K] whose loss is at most that of `start`.
    """
    target = problem.columns(problem.target)
    error = problem.columns(start) - target
    scale, zero = problem.columns(problem.scale), problem.columns(problem.zero_point)
    for _ in range(sweeps):
        if _sweep(problem, target, scale, zero, error) <= _SETTLED * error.size:
            break
    return np.ascontiguousarray((target + error).transpose(1, 2, 0), np.float32)


def _sweep(problem: Problem, target: Rows, scale: Rows, zero: Rows, error: Rows) -> int:
    """One sweep over the columns [K, groups, n]; changes `error`, and returns how many levels changed."""
    matrix, width = problem.matrix, len(target)
    highest, diagonal = problem.column_highest, np.einsum("gjj->jg", matrix)[:, :, None]
    changed = 0
    for first in range(0, width, _BATCH):
        last = min(first + _BATCH, width)
        slope = np.matmul(matrix[:, first:last], error.transpose(1, 0, 2)).transpose(1, 0, 2)
        for j in range(first, last):
            step_size = scale[j % len(scale)]
            best = target[j] + error[j] - slope[j - first] / diagonal[j]
            step = problem.nearest(best, step_size, zero[j % len(zero)], highest) - target[j] - error[j]
            moves = np.abs(step) > np.float32(0.5) * step_size
            count = int(np.count_nonzero(moves))
            if not count:
                continue
            step *= moves
            error[j] += step
            slope[j + 1 - first :] += matrix[:, j, j + 1 : last].T[:, :, None] * step
            changed += count
    return changed


def after(rounding: Rounding) -> Rounding:
    """A rounding method followed by coordinate descent.

    Args:
        rounding: The method that gives the initial levels.

    Returns:
        The combined method.
    """
    return lambda problem: solve(problem, rounding(problem))
