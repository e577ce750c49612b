"""Shapes and axes of constants through chains of Transpose, Reshape, Mul and the like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from mixquant_onnx.model.operators import attributes, moves_only
from mixquant_onnx.model.shapes import Shape
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.numerics.granularity import WeightAxes

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One operator of a chain, as a function on coordinates.

    Attributes:
        op: Type of the operator.
        apply: Moves an array of coordinates in the way that the operator moves elements.
        guessed: The other operand's shape is not known: it may be the larger one.
    """

    op: str
    apply: Callable[[NDArray[np.int32]], NDArray[np.int32]]
    guessed: bool = False
    """The other operand's shape is not known: it may be the larger one."""

    @property
    def moves_only(self) -> bool:
        """Whether the operator returns the stored numbers unchanged, in any order."""
        return moves_only(self.op)


def shape_after(shape: tuple[int, ...], steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Shape at the end of a chain.

    Args:
        shape: Shape of the stored tensor.
        steps: The chain.

    Returns:
        Shape of the value that the last step gives.

    Raises:
        ValueError: The chain cannot be followed (Reshape of a Concat, or to a shape computed at run time).
    """
    moved: NDArray[np.int32] = np.broadcast_to(np.int32(0), shape)
    for step in steps:
        moved = step.apply(moved)
    return tuple(moved.shape)


def step_of(node: NodeProto, constant: Callable[[str], TensorProto | None]) -> Step | None:
    """The step that a node performs on its first input.

    Args:
        node: The node.
        constant: Looks up a constant by name; None where the value is computed.

    Returns:
        The step; None where the result is not a float constant.

    Source:
        ONNX Transpose-1, Reshape-5 (allowzero: 14), Flatten-1, Squeeze-1 and -13, Unsqueeze-1 and -13.
    """
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
            return Step("Reshape", _unknown) if node.op_type == "Reshape" else None
        values = values_of(tensor).reshape(-1).tolist()
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


def _unknown(_: NDArray[np.int32]) -> NDArray[np.int32]:
    raise ValueError("the shape is computed at run time")


def scaling_step(op: str, shape: tuple[int, ...], other: Shape | None, constant: bool) -> Step | None:
    """The step of a weight that an elementwise operator combines with another value.

    Args:
        op: Mul, Div, Add or Sub.
        shape: Shape of the weight.
        other: Shape of the other operand; None if unknown.
        constant: Whether the other operand depends on no input of the model. One that does must be constant along some
            axis of the weight, and may be larger only where the weight has size 1 (a batch of styles).

    Returns:
        The step; None where the weight is not the larger operand.
    """
    if not (_at_most(other, shape) if constant else op in ("Mul", "Div") and _styles(other, shape)):
        return None
    dims = tuple(n or 1 for n in other or ())
    return Step(op, lambda x: np.broadcast_to(x, np.broadcast_shapes(x.shape, dims)), other is None)


def _at_most(other: Shape | None, shape: tuple[int, ...]) -> bool:
    return other is None or None in other or math.prod(n or 1 for n in other) <= math.prod(shape)


def _styles(other: Shape | None, shape: tuple[int, ...]) -> bool:
    if other is None:
        return True
    aligned = (1,) * (len(shape) - len(other)) + other[max(len(other) - len(shape), 0) :]
    wide = [(a, b) for a, b in zip(aligned, shape, strict=True) if b > 1]
    return all(a in (1, b) for a, b in wide) and any(a == 1 for a, _ in wide)


def layout_before(shape: tuple[int, ...], steps: tuple[Step, ...], layout: WeightAxes) -> WeightAxes:
    """Axes of the stored tensor, given those at the end of a chain.

    An axis is a row axis when its coordinate does not change along the reduced axes at the end, and reduced when it
    does not change along the row axes.

    Args:
        shape: Shape of the stored tensor.
        steps: The chain.
        layout: Axes of the value at its end.

    Returns:
        The layout of the stored tensor. Where axes mix, or come in an order that a WeightAxes cannot express, the whole
        tensor is one row.
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
            return WeightAxes(r=len(shape))
    counts = [0, 0, 0, 0]
    position = 0
    for kind in kinds:
        while (position % 2 == 0) != (kind == "row"):
            position += 1
        if position > 3:
            return WeightAxes(r=len(shape))
        counts[position] += 1
    return WeightAxes(p=counts[0], r=counts[1], q=counts[2], s=counts[3])
