"""Coordinate descent: each weight in turn takes the level that is best given all others of its row.

As QuantEase (Behdin et al. 2023, arXiv 2309.01885); started from GPTQ's answer it removes what GPTQ could no
longer change.
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_BATCH = 64
_SWEEPS = 10
_SETTLED = 1e-3
"""Share of weights changed in a sweep below which it ends."""


def solve(problem: Problem, start: Rows, sweeps: int = _SWEEPS) -> Rows:
    """Levels [groups, n, K] whose loss is at most that of `start`."""
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
