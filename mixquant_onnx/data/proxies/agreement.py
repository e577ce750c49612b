"""Whether shapes of inputs agree with the shapes that a model declares for inner values."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto

from mixquant_onnx.model.constants import tensors_of
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.skeleton import without_data
from mixquant_onnx.model.tensor_data import values_of


class Agreement:
    """Checks input shapes by ONNX's strict shape inference; nothing is run.

    Constants of Reshape, the sizes of weights, and the declared sizes of inner values and outputs must all agree.

    Args:
        model: The model; not changed.
    """

    def __init__(self, model: ModelProto) -> None:
        self._skeleton = without_data(model)

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether shape inference succeeds. A named free dimension has one size throughout.

        Args:
            shapes: Shapes by name of the input.

        Returns:
            False where inference finds a contradiction.
        """
        model = ModelProto()
        model.CopyFrom(self._skeleton)
        named: dict[str, int] = {}
        for value in model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
                if dim.dim_param:
                    named.setdefault(dim.dim_param, size)
                dim.dim_value = size
        for scope in walk(model):
            if isinstance(scope.body, GraphProto):
                _name(scope.body, named)
        try:
            onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            return False
        return True

    def numbers(self) -> list[int]:
        """Sizes that the model declares: of inner values and outputs, and in small constants and those of Reshape."""
        found: set[int] = set()
        for scope in walk(self._skeleton):
            if not isinstance(scope.body, GraphProto):
                continue
            for value in (*scope.body.value_info, *scope.body.output):
                found |= {d.dim_value for d in value.type.tensor_type.shape.dim}
            for tensor in tensors_of(scope).values():
                if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1:
                    found |= _integers(tensor)
                elif len(tensor.dims) == 3 and tensor.dims[0] == 1:
                    found.add(tensor.dims[1])
        return sorted(found)


def _name(body: GraphProto, named: Mapping[str, int]) -> None:
    """Replace named free dimensions of inner values and outputs by the sizes in `named`."""
    for value in (*body.value_info, *body.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]


def _integers(tensor: onnx.TensorProto) -> set[int]:
    try:
        return {int(n) for n in values_of(tensor)}
    except ValueError:  # data that `without_data` left out, or that lies in a file of its own
        return set()
