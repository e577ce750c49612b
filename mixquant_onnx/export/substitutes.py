"""Nodes that stand for a node of the main graph, and what rules look up to write them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.scopes import fresh_names, walk
from mixquant_onnx.model.shapes import Shape, shape_of
from mixquant_onnx.model.skeleton import types_of
from mixquant_onnx.model.tensor_data import values_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Substitute:
    """Nodes that compute the outputs of a node in its place.

    Attributes:
        before: The node.
        after: What replaces it; the names of the outputs stay.
    """

    before: NodeProto
    after: tuple[NodeProto, ...]

    @property
    def results(self) -> set[str]:
        """The outputs."""
        return set(self.before.output)


class Context:
    """Types and constants of a model, and constants that are added.

    Args:
        model: The model; constants are added to it.
    """

    def __init__(self, model: ModelProto) -> None:
        self._graph, self.fresh = model.graph, fresh_names(model)
        self._types, self._tensors = types_of(model), tensors_of(walk(model)[0])
        self._given = {value.name for value in model.graph.input}
        self._stored: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def is_float(self, name: str) -> bool:
        """Whether a value is known to be float32."""
        return name in self._types and self._types[name].type.tensor_type.elem_type == TensorProto.FLOAT

    def shape(self, name: str) -> Shape | None:
        """The shape of a value; None where its rank is not known."""
        return shape_of(self._types[name]) if name in self._types else None

    def integers(self, node: NodeProto, attribute: str, index: int) -> list[int] | None:
        """Integers that a node has as an attribute, or as a constant input in later opsets; None for none."""
        found = next((list(a.ints) for a in node.attribute if a.name == attribute), None)
        name = node.input[index] if len(node.input) > index else ""
        if found is None and name in self._tensors and name not in self._given:
            found = [int(value) for value in values_of(self._tensors[name]).reshape(-1)]
        return found

    def constant(self, value: NDArray[np.generic]) -> str:
        """The name of a constant; equal ones are stored once."""
        key = str(value.dtype), value.tobytes(), value.shape
        if key not in self._stored:
            wish = f"mixquant.{value.reshape(-1)[0]:g}" if value.size else "mixquant.none"
            name = self._stored[key] = self.fresh(wish)
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return self._stored[key]

    def scalar(self, value: float) -> str:
        """The name of a float32 scalar."""
        return self.constant(np.array(value, np.float32))
