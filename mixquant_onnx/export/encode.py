"""Encode one weight, with the documentation of the tensor that it replaces."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from mixquant_onnx.export.encodings.builder import Encoded, FreshName
from mixquant_onnx.export.encodings.expand import expanded
from mixquant_onnx.export.encodings.storage import Storage
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor


def encode(
    located: LocatedWeight, q: QuantizedTensor, storage: Storage, opset: int, fresh: FreshName, target: str = "ort"
) -> Encoded:
    """Tensors and nodes that replace a weight.

    Doc string and metadata of the tensor go to the codes, those of a Constant node to the last node.

    Args:
        located: The weight.
        q: The quantized weight, or its `Outline`.
        storage: How it is stored.
        opset: Opset of the model.
        fresh: Gives an unused name.
        target: Name of the target; for `qdq` there are no functions.

    Returns:
        What to insert in place of the weight.
    """
    encoded = storage.encode(q, located.source.name, opset, fresh)
    if target == "qdq":
        encoded = expanded(encoded, fresh)
    _move_documentation(located.source.tensor, encoded.tensors[0])
    if located.source.node is not None:
        _move_documentation(located.source.node, encoded.nodes[-1])
    return encoded


def _move_documentation(old: TensorProto | NodeProto, new: TensorProto | NodeProto) -> None:
    if old.doc_string:
        new.doc_string = old.doc_string
    new.metadata_props.extend(old.metadata_props)
