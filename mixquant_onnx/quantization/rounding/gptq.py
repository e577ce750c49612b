"""GPTQ: columns are rounded one by one, and later columns are adjusted to compensate for the error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixquant_onnx.quantization.rounding.objective import Problem, Rows

_BATCH = 64
"""Columns after which the rest of the matrix is updated (the lazy batch of the paper); affects speed alone."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Factor:
    """What of a problem's matrix is worked out once, however many rows and widths are rounded.

    Attributes:
        order: Columns in order of decreasing E[x_j^2], summed over groups (act-order).
        upper: R of M = R R^T for M in that order [groups, K, K], each column divided by its diagonal entry.
    """

    order: NDArray[np.intp]
    upper: Rows


def factorised(matrix: Rows) -> Factor:
    """Factorise second moments.

    Args:
        matrix: M = E[x x^T] [groups, K, K], positive definite.

    Returns:
        The factor.
    """
    order = np.argsort(-np.einsum("gjj->j", matrix), kind="stable")
    backwards = order[::-1]
    lower = np.linalg.cholesky(matrix[:, backwards][:, :, backwards].astype(np.float64))
    upper = lower[:, ::-1, ::-1]
    scaled = upper / np.einsum("gjj->gj", upper)[:, None, :]
    return Factor(order=order, upper=np.asarray(scaled, np.float32))


def solve(problem: Problem, factor: Factor | None = None) -> Rows:
    """Round by GPTQ, columns in order of decreasing E[x_j^2], summed over groups (act-order).

    Written as nearest-plane rounding: with M = R R^T and R upper triangular, the loss |(Q - W) R|^2 is minimised
    column by column, which gives GPTQ's codes without inverting M.

    Args:
        problem: The rounding problem.
        factor: Of the problem's matrix, where it is known.

    Returns:
        Levels [groups, n, K].

    Source:
        Frantar et al. 2023, arXiv 2210.17323, algorithm 1; act-order is from the authors' code. The equivalence:
        Chen et al. 2025, arXiv 2507.18553.
    """
    known = factor or factorised(problem.matrix)
    order, upper = known.order, known.upper
    target = problem.columns(problem.target, order)
    scale, zero = problem.columns(problem.scale, order), problem.columns(problem.zero_point, order)
    highest = problem.column_highest
    width = len(target)
    wished, levels = target.copy(), np.empty_like(target)
    for start in range(0, width, _BATCH):
        stop = min(start + _BATCH, width)
        for j in range(start, stop):
            levels[j] = problem.nearest(wished[j], scale[j % len(scale)], zero[j % len(zero)], highest)
            error = levels[j] - target[j]
            wished[j + 1 : stop] -= upper[:, j, j + 1 : stop].T[:, :, None] * error
        if stop < width:
            made = (levels[start:stop] - target[start:stop]).transpose(1, 0, 2)
            wished[stop:] -= np.matmul(upper[:, start:stop, stop:].transpose(0, 2, 1), made).transpose(1, 0, 2)
    result = np.empty_like(levels)
    result[order] = levels
    return np.ascontiguousarray(result.transpose(1, 2, 0))
