"""The class axis of an output: the largest entry along it is a decision.

An output holds classes where it, or its exponential, sums to 1 along an axis; where an ArgMax of the graph reads it; by
its name; where it is [rows, classes]; or by its last layer: a matrix product with more columns than rows, or a 1x1 Conv
that only a Resize follows. Embeddings and hidden states do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mixquant_onnx.errors import DataError
from mixquant_onnx.numerics.outputs import Array, Outputs, arrays_of, is_numbers

_CLASSES = re.compile(r"logit|prob|score|softmax|class|cls|pred|label|ctc|segm", re.IGNORECASE)
_NO_CLASSES = re.compile(
    r"emb|feat|hidden|pooler|pooled|vector|state|attention|box|bbox|coord|loc|landmark|keypoint|depth|mel|audio|wave",
    re.IGNORECASE,
)
_SUM = 2e-3
"""Tolerance of a sum of probabilities, which is 1: float16 leaves up to 1e-3."""

_UNIT = 1e-3
"""Tolerance of the norm of normalized rows, which is 1: float16 leaves up to 1e-3."""

_PASSES = frozenset({"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Add", "Dropout"})
"""Operators that may stand between the last layer and the output."""

_CHECKED = 1 << 22
"""Most values of an output that are inspected, to save time; four million are thousands of rows of classes."""


def class_axes(model: ModelProto | None, reference: Outputs, names: Sequence[str]) -> dict[str, int]:
    """The class axis of each numeric output that has one.

    Args:
        model: The float model; without it values and names alone decide.
        reference: Its outputs; those of the first batch are inspected.
        names: Names of the outputs, in order.

    Returns:
        Axes by name of the output.
    """
    graph = _Graph(model) if model is not None else None
    found = {}
    for name, array in arrays_of(reference[0], names).items():
        axis = _axis(name, array, graph) if is_numbers(array) and array.ndim >= 2 and array.size else None
        if axis is not None:
            found[name] = axis
    return found


def has_decisions(model: ModelProto | None, reference: Outputs, names: Sequence[str]) -> bool:
    """Whether an output holds classes, labels, or other integers or strings.

    Args:
        model: The float model; without it values and names alone decide.
        reference: Its outputs; those of the first batch are inspected.
        names: Names of the outputs, in order.

    Returns:
        False where all outputs are numeric and none has a class axis.
    """
    arrays = arrays_of(reference[0], names).values()
    return any(a.size and not is_numbers(a) for a in arrays) or bool(class_axes(model, reference, names))


def check_classes(model: ModelProto | None, reference: Outputs, names: Sequence[str]) -> None:
    """Check that `--min-agreement` can be evaluated.

    Args:
        model: The float model; without it values and names alone decide.
        reference: Its outputs; those of the first batch are inspected.
        names: Names of the outputs, in order.

    Raises:
        DataError: No output holds decisions.
    """
    if not has_decisions(model, reference, names):
        shapes = ", ".join(f"'{n}' {list(a.shape)}" for n, a in arrays_of(reference[0], names).items())
        raise DataError(
            f"--min-agreement needs an output of classes or labels, this model gives {shapes}; use --min-sqnr"
        )


def _axis(name: str, array: Array, graph: _Graph | None) -> int | None:
    """The class axis of one numeric output of rank 2 or more; None where it has none."""
    some = array[: max(1, _CHECKED * len(array) // max(array.size, 1))]
    values = some.astype(np.float32)
    for axis in _likely(array.ndim):
        attention = array.ndim >= 4 and array.shape[-1] == array.shape[-2] and axis == array.ndim - 1
        if array.shape[axis] > 1 and not attention and _distribution(values, axis):
            return axis
    read = graph.argmax_axis(name, array.ndim) if graph is not None else None
    if read is not None:
        return read if array.shape[read] > 1 else None
    if _NO_CLASSES.search(name) or _unit_rows(values):
        return None
    if array.ndim == 2:
        counted = graph is not None and graph.counts_rows
        return 1 if array.shape[1] > 1 and not counted else None
    return _by_layer(name, array, graph)


def _by_layer(name: str, array: Array, graph: _Graph | None) -> int | None:
    """The class axis of outputs of rank 3 and more that do not sum to 1."""
    if _CLASSES.search(name) and array.ndim in (3, 4):
        axis = 1 if array.ndim == 4 else 2
        return axis if array.shape[axis] > 1 else None
    if graph is None:
        return None
    layer = graph.last_layer(name)
    if layer is None:
        return None
    node, shape, resized = layer
    if array.ndim == 3 and node.op_type in ("MatMul", "Gemm") and len(shape) == 2:
        wide, narrow = max(shape), min(shape)
        return 2 if array.shape[2] == wide > narrow else None
    pointwise = node.op_type == "Conv" and len(shape) == 4 and shape[2:] == [1, 1]
    if array.ndim == 4 and pointwise and resized and array.shape[1] == shape[0] and shape[0] not in (1, 3):
        return 1
    return None


def _likely(rank: int) -> tuple[int, ...]:
    """Axes in the order in which they are tried."""
    if rank == 2:
        return (1,)
    return (rank - 1, 1) if rank == 3 else (1, rank - 1)


def _distribution(values: Array, axis: int) -> bool:
    """Whether `values` are probabilities along `axis`, or their logarithms."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 + _SUM:
        return bool(np.all(np.abs(values.sum(axis) - 1) <= _SUM))
    if high <= _SUM:
        return bool(np.all(np.abs(np.exp(values).sum(axis) - 1) <= _SUM))
    return False


def _unit_rows(values: Array) -> bool:
    """Whether the last axis was normalized to length 1, as embeddings are."""
    if values.shape[-1] < 2:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.sum(np.square(values, dtype=np.float64), -1))
        return bool(np.all(np.abs(norms - 1) <= _UNIT))


class _Graph:
    """Producers of the outputs of the main graph."""

    def __init__(self, model: ModelProto) -> None:
        self._maker: Mapping[str, NodeProto] = {o: n for n in model.graph.node for o in n.output if o}
        self._shapes = {t.name: list(t.dims) for t in model.graph.initializer}
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("t"):
                    self._shapes[node.output[0]] = list(attribute.t.dims)
        self._operators = {node.op_type for node in model.graph.node}
        self._argmax = {n.input[0]: _attribute(n, "axis", 0) for n in model.graph.node if n.op_type == "ArgMax"}

    @property
    def counts_rows(self) -> bool:
        """Whether an operator produces a number of rows that depends on the data, such as detections."""
        return bool(self._operators & {"NonMaxSuppression", "NonZero"})

    def argmax_axis(self, name: str, rank: int) -> int | None:
        """The axis along which an ArgMax reads the value `name`."""
        axis = self._argmax.get(name)
        return None if axis is None or not -rank <= axis < rank else axis % rank

    def last_layer(self, name: str) -> tuple[NodeProto, list[int], bool] | None:
        """(node, shape of its weight, whether a Resize follows) of the last layer before the output `name`."""
        resized = False
        for _ in range(len(self._maker)):
            node = self._maker.get(name)
            if node is None:
                return None
            if node.op_type in ("MatMul", "Gemm", "Conv"):
                return (node, self._shapes[node.input[1]], resized) if node.input[1] in self._shapes else None
            resized = resized or node.op_type in ("Resize", "Upsample")
            if node.op_type not in _PASSES and node.op_type not in ("Resize", "Upsample"):
                return None
            computed = [i for i in node.input if i in self._maker and i not in self._shapes]
            if not computed or (node.op_type == "Add" and len(computed) != 1):
                return None
            name = computed[0]
        return None


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == name), default)
