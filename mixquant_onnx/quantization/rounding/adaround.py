"""AdaRound on second moments: rounding up or down is learned by gradient descent.

The paper's loss |W x - Q x|^2 over samples is tr((Q - W) M (Q - W)^T), so its gradient is 2 (Q - W) M: one matrix
product per iteration, without samples or autodiff. The schedule is shared with block reconstruction.

Source:
    Nagel et al. 2020, arXiv 2004.10568.
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.quantization.rounding.objective import Problem, Rows

STRETCH = (-0.1, 1.1)
"""(low, high) of the rectified sigmoid, sigmoid x (high - low) + low clipped to 0..1 (equations 22 to 24)."""

RATE = 0.1
"""Learning rate of Adam, as in BRECQ's block reconstruction here."""

_WARM_UP = 0.2
"""Share of the iterations before the regulariser is added, as published."""

_EXPONENTS = (20.0, 2.0)
"""First and last exponent of the regulariser, 1 - |2 h - 1|^beta, as published."""

_ITERATIONS = 500
"""Steps of Adam; the published 10,000 use mini-batches, here every step uses all data."""

_STRENGTH = 0.3
"""Weight of the regulariser against a loss in units of rounding errors (s^2 E[x^2] = 1 on average over a row). Of
0.0002 to 1 it has the least loss on correlated inputs; weaker ones leave weights between levels.
"""


def warm_up(iterations: int) -> int:
    """Number of iterations before the regulariser is added."""
    return int(_WARM_UP * iterations)


def annealed_exponent(step: int, iterations: int) -> np.float64:
    """The exponent of the regulariser; it falls as a cosine after the warm-up.

    Args:
        step: Current iteration, after the warm-up.
        iterations: All iterations.

    Returns:
        A NumPy scalar: powers of float32 arrays by it are computed in float64.
    """
    warm = warm_up(iterations)
    first, last = _EXPONENTS
    progress = (step - warm) / max(iterations - warm, 1)
    return np.float64(last + 0.5 * (first - last) * (1 + np.cos(np.pi * progress)))


def solve(problem: Problem) -> Rows:
    """Round by AdaRound.

    Args:
        problem: The rounding problem.

    Returns:
        Levels [groups, n, K], each the one below or above its target.
    """
    low, high = STRETCH
    scale = np.broadcast_to(problem.scale, problem.target.shape)
    zero = np.broadcast_to(problem.zero_point, problem.target.shape)
    below = np.clip(np.floor(problem.target / scale), -zero, problem.highest - zero)
    room = below < problem.highest - zero
    share = np.clip(problem.target / scale - below, 0.01, 0.99)
    hidden = -np.log((high - low) / (share - low) - 1)
    unit = np.mean(np.square(scale) * np.einsum("gjj->gj", problem.matrix)[:, None, :], axis=2, keepdims=True)
    unit = np.where(unit > 0, unit, np.float32(1))
    first, second = np.zeros_like(hidden), np.zeros_like(hidden)
    for step in range(1, _ITERATIONS + 1):
        sigmoid = 1 / (1 + np.exp(-hidden))
        open_ = sigmoid * (high - low) + low
        up = np.clip(open_, 0, 1)
        error = (below + up) * scale - problem.target
        gradient = 2 * np.matmul(error, problem.matrix) * scale / unit
        if step > warm_up(_ITERATIONS):
            beta = annealed_exponent(step, _ITERATIONS)
            away = 2 * up - 1
            gradient -= _STRENGTH * beta * 2 * np.sign(away) * np.abs(away) ** (beta - 1)
        gradient *= sigmoid * (1 - sigmoid) * (high - low) * ((open_ > 0) & (open_ < 1))
        first += 0.1 * (gradient - first)
        second += 0.001 * (np.square(gradient) - second)
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        hidden -= rate * first / (np.sqrt(second) + 1e-8)
    chosen = below + (room & (hidden > 0))
    return np.asarray(chosen * scale, np.float32)
