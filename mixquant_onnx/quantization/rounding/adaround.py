"""AdaRound (Nagel et al. 2020, arXiv 2004.10568) on second moments: up or down for each weight, learned.

The paper's loss |W x - Q x|^2 over samples is tr((Q - W) M (Q - W)^T), so its gradient is 2 (Q - W) M: one
product of matrices an iteration, without samples or autodiff.
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_ITERATIONS = 500
_RATE = 0.1
_STRENGTH = 0.3
"""Weight of the regulariser against a loss in units of rounding errors (s^2 E[x^2] = 1 on average over a row).

Of 0.0002 to 1 the least loss on correlated inputs; a weak one leaves weights between levels."""
_WARM = 0.2
"""Share of the iterations before the regulariser sets in."""
_BETA = (20.0, 2.0)
_STRETCH = (-0.1, 1.1)
"""The rectified sigmoid of the paper, equations 22 to 24."""


def solve(problem: Problem) -> Rows:
    """Levels [groups, n, K], each the one below or above its target."""
    low, high = _STRETCH
    scale = np.broadcast_to(problem.scale, problem.target.shape)
    zero = np.broadcast_to(problem.zero_point, problem.target.shape)
    below = np.clip(np.floor(problem.target / scale), -zero, problem.highest - zero)
    room = below < problem.highest - zero
    share = np.clip(problem.target / scale - below, 0.01, 0.99)
    hidden = -np.log((high - low) / (share - low) - 1)
    unit = np.mean(np.square(scale) * np.einsum("gjj->gj", problem.matrix)[:, None, :], axis=2, keepdims=True)
    unit = np.where(unit > 0, unit, np.float32(1))
    first, second = np.zeros_like(hidden), np.zeros_like(hidden)
    warm = int(_WARM * _ITERATIONS)
    for step in range(1, _ITERATIONS + 1):
        sigmoid = 1 / (1 + np.exp(-hidden))
        open_ = sigmoid * (high - low) + low
        up = np.clip(open_, 0, 1)
        error = (below + up) * scale - problem.target
        gradient = 2 * np.matmul(error, problem.matrix) * scale / unit
        if step > warm:
            progress = (step - warm) / (_ITERATIONS - warm)
            beta = _BETA[1] + 0.5 * (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * progress))
            away = 2 * up - 1
            gradient -= _STRENGTH * beta * 2 * np.sign(away) * np.abs(away) ** (beta - 1)
        gradient *= sigmoid * (1 - sigmoid) * (high - low) * ((open_ > 0) & (open_ < 1))
        first += 0.1 * (gradient - first)
        second += 0.001 * (np.square(gradient) - second)
        rate = _RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        hidden -= rate * first / (np.sqrt(second) + 1e-8)
    chosen = below + (room & (hidden > 0))
    return np.asarray(chosen * scale, np.float32)
