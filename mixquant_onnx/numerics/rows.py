"""A tensor as rows of weights that share a scale, and back. The only place that knows granularity.

A weight has the axes [p, r, q, s] of a `WeightAxes`. Scales and zero points are stored as [P, G, Q]: P and Q count the
values of the row axes before and after the reduced axis, G the blocks along it (1 without blocks).
"""

from __future__ import annotations

import numpy as np

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes


def effective_grid(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> Granularity:
    """The granularity that is used for a weight: per channel where one block would hold a whole row.

    Args:
        shape: Shape of the weight.
        layout: Its axes.
        grid: The granularity asked for.

    Returns:
        `grid`, or per channel.
    """
    reduced = layout.merged().sizes(shape)[1]
    return Granularity(per="channel") if grid.block is not None and grid.block >= reduced else grid


def params_shape(shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> tuple[int, int, int]:
    """Shape of the scales and zero points.

    Args:
        shape: Shape of the weight.
        layout: Its axes.
        grid: Granularity.

    Returns:
        (P, G, Q): row axes before, blocks along the reduced axis, row axes after. (1, 1, 1) per tensor; G is 1 per
        channel, and ceil(R / N) for blocks of N along a reduced axis of R weights.
    """
    if grid.per == "tensor":
        return 1, 1, 1
    if grid.block is None:
        p, _, q, _ = layout.sizes(shape)
        return p, 1, q
    p, r, q, _ = layout.merged().sizes(shape)
    return p, -(-r // grid.block), q


def to_rows(tensor: FloatArray, layout: WeightAxes, grid: Granularity) -> FloatArray:
    """Rows of weights that share a scale.

    Args:
        tensor: The weight, of any shape that `layout` describes.
        layout: Which of its axes are reduced.
        grid: Granularity.

    Returns:
        [P * Q * G, weights], contiguous; the last block of each P, Q is padded with zeros.
    """
    if grid.per == "tensor":
        return np.ascontiguousarray(tensor.reshape(1, -1))
    if grid.block is None:
        p, r, q, s = layout.sizes(tensor.shape)
        return np.ascontiguousarray(tensor.reshape(p, r, q, s).transpose(0, 2, 1, 3)).reshape(p * q, r * s)
    p, r, q, _ = layout.merged().sizes(tensor.shape)
    rows = np.ascontiguousarray(tensor.reshape(p, r, q).transpose(0, 2, 1)).reshape(p * q, r)
    return np.pad(rows, ((0, 0), (0, -r % grid.block))).reshape(-1, grid.block)


def from_rows(rows: FloatArray, shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> FloatArray:
    """The inverse of `to_rows`.

    Args:
        rows: [P * Q * G, weights]; padding is dropped.
        shape: Shape of the weight.
        layout: Its axes.
        grid: Granularity.

    Returns:
        The tensor of shape `shape`.
    """
    if grid.per == "tensor":
        return rows.reshape(shape)
    if grid.block is None:
        p, r, q, s = layout.sizes(shape)
        return np.ascontiguousarray(rows.reshape(p, q, r, s).transpose(0, 2, 1, 3)).reshape(shape)
    p, r, q, _ = layout.merged().sizes(shape)
    kept = rows.reshape(p * q, -1)[:, :r]
    return np.ascontiguousarray(kept.reshape(p, q, r).transpose(0, 2, 1)).reshape(shape)


def params_from_rows(values: FloatArray, shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> FloatArray:
    """Reorder one value per row into the stored shape of scales and zero points.

    Args:
        values: [P * Q * G], in the order of `to_rows`.
        shape: Shape of the weight.
        layout: Its axes.
        grid: Granularity.

    Returns:
        [P, G, Q], contiguous.
    """
    p, g, q = params_shape(shape, layout, grid)
    return np.ascontiguousarray(values.reshape(p, q, g).transpose(0, 2, 1))


def params_to_rows(params: FloatArray, rows: int) -> FloatArray:
    """The inverse of `params_from_rows`.

    Args:
        params: [P, G, Q].
        rows: Number of rows, P * G * Q, or any number where `params` is a single value.

    Returns:
        [rows], in the order of `to_rows`; a single value is repeated for every row.
    """
    if params.size == 1:
        return np.full(rows, params.reshape(-1)[0])
    return np.ascontiguousarray(params.transpose(0, 2, 1)).reshape(-1)


def expand_params(params: FloatArray, shape: tuple[int, ...], layout: WeightAxes, grid: Granularity) -> FloatArray:
    """Scales or zero points in a shape that broadcasts against the weight.

    Args:
        params: [P, G, Q].
        shape: Shape of the weight.
        layout: Its axes.
        grid: Granularity, after `effective_grid`.

    Returns:
        An array of the rank of `shape`; with blocks, each value is repeated along the reduced axis.
    """
    if params.size == 1:
        return params.reshape((1,) * len(shape))
    if grid.block is None:
        return params.reshape(channel_params_shape(shape, layout))
    _, r, _, _ = layout.merged().sizes(shape)
    return np.repeat(params, grid.block, axis=1)[:, :r].reshape(shape)


def channel_params_shape(shape: tuple[int, ...], layout: WeightAxes) -> tuple[int, ...]:
    """Shape of per-channel scales that broadcasts against the weight: 1 in place of every reduced axis.

    Args:
        shape: Shape of the weight.
        layout: Its axes.

    Returns:
        A shape of the same rank.
    """
    kept = (1,) * layout.p + (0,) * layout.r + (1,) * layout.q + (0,) * layout.s
    return tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))
