"""GPTQ: columns are rounded one by one, and later columns are adjusted to compensate for the error."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_BATCH = 64
"""Columns after which the rest of the matrix is updated (the lazy batch of the paper); affects speed alone."""


def solve(problem: Problem) -> Rows:
    """Round by GPTQ, columns in order of decreasing E[x_j^2], summed over groups (act-order).

    Args:
        problem: The rounding problem.

    Returns:
        Levels [groups, n, K].

    Source:
        Frantar et al. 2023, arXiv 2210.17323, algorithm 1; act-order is from the authors' code.
    """
    width = problem.matrix.shape[2]
    diagonal = np.einsum("gjj->j", problem.matrix)
    order = np.argsort(-diagonal, kind="stable")
    matrix = problem.matrix[:, order][:, :, order].astype(np.float64)
    # Rows of U, the upper Cholesky factor of the inverse, distribute an error over later columns.
    upper = np.linalg.cholesky(np.linalg.inv(matrix)).transpose(0, 2, 1).astype(np.float32)
    left = problem.target[:, :, order]
    scale = np.broadcast_to(problem.scale, left.shape)[:, :, order]
    zero = np.broadcast_to(problem.zero_point, left.shape)[:, :, order]
    levels = np.empty_like(left)
    for start in range(0, width, _BATCH):
        stop = min(start + _BATCH, width)
        errors = np.empty((*left.shape[:2], stop - start), np.float32)
        for j in range(start, stop):
            levels[:, :, j] = problem.nearest(left[:, :, j], scale[:, :, j], zero[:, :, j])
            error = (left[:, :, j] - levels[:, :, j]) / upper[:, j, j, None]
            left[:, :, j + 1 : stop] -= error[:, :, None] * upper[:, None, j, j + 1 : stop]
            errors[:, :, j - start] = error
        left[:, :, stop:] -= np.matmul(errors, upper[:, start:stop, stop:])
    result = np.empty_like(levels)
    result[:, :, order] = levels
    return result
