"""A tensor as rows of weights that share a scale, and back. The only place that knows granularity."""

from __future__ import annotations

import numpy as np

from mixquant_onnx.types import Codes, FloatArray, Grid, Layout


def effective_grid(shape: tuple[int, ...], layout: Layout, grid: Grid) -> Grid:
    """`grid`, or per channel where one block would hold a whole row."""
    reduced = layout.merged().sizes(shape)[1]
    return Grid(per="channel") if grid.block is not None and grid.block >= reduced else grid


def params_shape(shape: tuple[int, ...], layout: Layout, grid: Grid) -> tuple[int, int, int]:
    """Shape [P, G, Q] of the scales: row axes before, blocks along the reduced axis, row axes after."""
    if grid.per == "tensor":
        return 1, 1, 1
    if grid.block is None:
        p, _, q, _ = layout.sizes(shape)
        return p, 1, q
    p, r, q, _ = layout.merged().sizes(shape)
    return p, -(-r // grid.block), q


def to_rows(tensor: FloatArray, layout: Layout, grid: Grid) -> FloatArray:
    """Rows [P * Q * G, weights], contiguous; the last block of a row is padded with zeros."""
    if grid.per == "tensor":
        return np.ascontiguousarray(tensor.reshape(1, -1))
    if grid.block is None:
        p, r, q, s = layout.sizes(tensor.shape)
        return np.ascontiguousarray(tensor.reshape(p, r, q, s).transpose(0, 2, 1, 3)).reshape(p * q, r * s)
    p, r, q, _ = layout.merged().sizes(tensor.shape)
    rows = np.ascontiguousarray(tensor.reshape(p, r, q).transpose(0, 2, 1)).reshape(p * q, r)
    return np.pad(rows, ((0, 0), (0, -r % grid.block))).reshape(-1, grid.block)


def from_rows(rows: FloatArray, shape: tuple[int, ...], layout: Layout, grid: Grid) -> FloatArray:
    """The inverse of `to_rows` (padding dropped)."""
    if grid.per == "tensor":
        return rows.reshape(shape)
    if grid.block is None:
        p, r, q, s = layout.sizes(shape)
        return np.ascontiguousarray(rows.reshape(p, q, r, s).transpose(0, 2, 1, 3)).reshape(shape)
    p, r, q, _ = layout.merged().sizes(shape)
    kept = rows.reshape(p * q, -1)[:, :r]
    return np.ascontiguousarray(kept.reshape(p, q, r).transpose(0, 2, 1)).reshape(shape)


def params_from_rows(values: FloatArray, shape: tuple[int, ...], layout: Layout, grid: Grid) -> FloatArray:
    """One value a row, in the order of `to_rows`, as [P, G, Q]."""
    p, g, q = params_shape(shape, layout, grid)
    return np.ascontiguousarray(values.reshape(p, q, g).transpose(0, 2, 1))


def params_to_rows(params: FloatArray, rows: int) -> FloatArray:
    """The inverse of `params_from_rows`; a single value is repeated for every row."""
    if params.size == 1:
        return np.full(rows, params.reshape(-1)[0])
    return np.ascontiguousarray(params.transpose(0, 2, 1)).reshape(-1)


def expand_params(params: FloatArray, shape: tuple[int, ...], layout: Layout, grid: Grid) -> FloatArray:
    """`params` [P, G, Q] such that it broadcasts against a tensor of `shape`."""
    if params.size == 1:
        return params.reshape((1,) * len(shape))
    if grid.block is None:
        return params.reshape(channel_params_shape(shape, layout))
    _, r, _, _ = layout.merged().sizes(shape)
    return np.repeat(params, grid.block, axis=1)[:, :r].reshape(shape)


def channel_params_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """`shape` with 1 in place of every reduced axis."""
    kept = (1,) * layout.p + (0,) * layout.r + (1,) * layout.q + (0,) * layout.s
    return tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))


def dequantize(
    codes: Codes,
    scale: FloatArray,
    zero_point: Codes,
    layout: Layout,
    grid: Grid,
    dtype: np.dtype[np.generic],
) -> FloatArray:
    """(codes - zero point) x scale, in float32, then cast: the single definition of meaning.

    ONNX DequantizeLinear, opset 10 and up; exact, because codes - zero point is an integer below 2^9.
    """
    zero = expand_params(zero_point, codes.shape, layout, grid).astype(np.float32)
    step = expand_params(scale, codes.shape, layout, grid).astype(np.float32)
    return ((codes.astype(np.float32) - zero) * step).astype(dtype)
