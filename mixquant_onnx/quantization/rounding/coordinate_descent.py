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
    width = problem.matrix.shape[2]
    target = problem.target
    scale = np.broadcast_to(problem.scale, target.shape)
    zero = np.broadcast_to(problem.zero_point, target.shape)
    diagonal = np.einsum("gjj->gj", problem.matrix)
    error = start - target
    for _ in range(sweeps):
        changed = 0
        for first in range(0, width, _BATCH):
            last = min(first + _BATCH, width)
            slope = np.matmul(error, problem.matrix[:, :, first:last])
            inside = problem.matrix[:, first:last, first:last]
            for j in range(first, last):
                best = target[:, :, j] + error[:, :, j] - slope[:, :, j - first] / diagonal[:, j, None]
                step = problem.nearest(best, scale[:, :, j], zero[:, :, j]) - target[:, :, j] - error[:, :, j]
                moves = np.abs(step) > np.float32(0.5) * scale[:, :, j]
                if not moves.any():
                    continue
                step = np.where(moves, step, np.float32(0))
                error[:, :, j] += step
                slope += step[:, :, None] * inside[:, None, j - first, :]
                changed += int(np.count_nonzero(moves))
        if changed <= _SETTLED * error.size:
            break
    return np.asarray(target + error, np.float32)


def after(rounding: Rounding) -> Rounding:
    """A rounding method followed by coordinate descent.

    Args:
        rounding: The method that gives the initial levels.

    Returns:
        The combined method.
    """
    return lambda problem: solve(problem, rounding(problem))
