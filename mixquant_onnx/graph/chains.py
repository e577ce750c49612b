"""Constants behind Identity, Transpose, Reshape and the like: shapes and axes through such a chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from mixquant_onnx.graph.operators import attributes
from mixquant_onnx.types import Layout

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One operator of a chain, as a function that moves coordinates along with the elements."""

    op: str
    apply: Callable[[NDArray[np.int32]], NDArray[np.int32]]


def shape_after(shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Shape at the end of a chain. Raises ValueError where it cannot be followed (Reshape of a Concat)."""
    moved: NDArray[np.int32] = np.broadcast_to(np.int32(0), shape)
    for step in steps:
        moved = step.apply(moved)
    return tuple(moved.shape)


def step_of(node: NodeProto, constant: Callable[[str], TensorProto | None]) -> Step | None:
    """The step that `node` is; None where it does not keep a float constant a constant."""
    at = attributes(node)
    if node.op_type in ("Identity", "Slice", "Split", "Concat"):
        return Step(node.op_type, lambda x: x)
    if node.op_type == "Cast":
        return Step("Cast", lambda x: x) if at.get("to") in _FLOATS else None
    if node.op_type == "Transpose":
        perm = at.get("perm")
        return Step("Transpose", lambda x: x.transpose(perm))
    if node.op_type == "Flatten":
        axis = int(at.get("axis", 1))
        return Step("Flatten", lambda x: x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1))
    values = at.get("axes") if "axes" in at else at.get("shape")
    if values is None and len(node.input) > 1 and node.input[1]:
        tensor = constant(node.input[1])
        if tensor is None:
            return None
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
    if node.op_type == "Squeeze":
        return Step("Squeeze", lambda x: x.squeeze(None if values is None else tuple(values)))
    if values is None:
        return None
    if node.op_type == "Unsqueeze":
        return Step("Unsqueeze", lambda x: np.expand_dims(x, tuple(values)))
    keep = not at.get("allowzero", 0)
    return Step(
        "Reshape",
        lambda x: x.reshape([x.shape[i] if n == 0 and keep else n for i, n in enumerate(values)]),
    )


def layout_before(shape: tuple[int, ...], steps: tuple[Step, ...], layout: Layout) -> Layout:
    """Axes of the stored tensor, given those at the end of `steps`.

    An axis is a row axis when its coordinate does not change along the reduced axes at the end, reduced when
    it does not change along the row axes. Where the axes mix, or come in an order that a Layout cannot say,
    the whole tensor is one row.
    """
    kinds = []
    for axis, size in enumerate(shape):
        line = np.arange(size, dtype=np.int32).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        moved = np.broadcast_to(line, shape)
        for step in steps:
            moved = step.apply(moved)
        ends = np.cumsum([0, layout.p, layout.r, layout.q, layout.s])
        rows = (*range(ends[0], ends[1]), *range(ends[2], ends[3]))
        reduced = (*range(ends[1], ends[2]), *range(ends[3], ends[4]))
        if not np.ptp(moved, axis=reduced).any():
            kinds.append("row")
        elif not np.ptp(moved, axis=rows).any():
            kinds.append("reduced")
        else:
            return Layout(r=len(shape))
    counts = [0, 0, 0, 0]
    position = 0
    for kind in kinds:
        while (position % 2 == 0) != (kind == "row"):
            position += 1
        if position > 3:
            return Layout(r=len(shape))
        counts[position] += 1
    return Layout(p=counts[0], r=counts[1], q=counts[2], s=counts[3])
