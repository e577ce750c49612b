"""Shapes of values inside a model, by ONNX shape inference, computed on first use."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, ValueInfoProto

from mixquant_onnx.model.scopes import Scope, walk
from mixquant_onnx.model.skeleton import inferred

Shape = tuple[int | None, ...]
"""None for a free dimension."""


def shape_of(value: ValueInfoProto) -> Shape | None:
    """The declared or inferred shape of a value; None where its rank is not known, or it is no tensor."""
    if not (value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


class Shapes:
    """Inferred shapes of the values of a model. Values inside model-local functions have none.

    Args:
        model: The model; not changed.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._found: dict[tuple[str, str], Shape] | None = None

    def of(self, scope: Scope, name: str) -> Shape | None:
        """The shape of a value.

        Args:
            scope: The scope that defines it.
            name: Its name.

        Returns:
            The shape; None where it, or its rank, is not known.
        """
        if self._found is None:
            self._found = _inferred(self._model)
        return self._found.get((scope.path, name))


def _inferred(model: ModelProto) -> dict[tuple[str, str], Shape]:
    found: dict[tuple[str, str], Shape] = {}
    for scope in walk(inferred(model)):
        if not isinstance(scope.body, GraphProto):
            continue
        for tensor in scope.body.initializer:
            found[scope.path, tensor.name] = tuple(tensor.dims)
        for value in (*scope.body.value_info, *scope.body.input, *scope.body.output):
            shape = shape_of(value)
            if shape is not None:
                found[scope.path, value.name] = shape
    return found
