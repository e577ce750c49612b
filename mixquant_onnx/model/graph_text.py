"""The bytes of a model that neither compute nor hold values."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from onnx import ModelProto

from mixquant_onnx.model.scopes import walk


def text_nbytes(model: ModelProto) -> int:
    """Bytes of names, documentation, metadata and declared shapes, in all graphs and functions.

    Args:
        model: The model.

    Returns:
        The length of the texts, and of the messages with the shapes of values inside.
    """
    total = 0
    for scope in walk(model):
        body = scope.body
        for node in body.node:
            total += _length(chain((node.name, node.doc_string), node.input, node.output))
            total += sum(entry.ByteSize() for entry in node.metadata_props)
        total += sum(value.ByteSize() for value in body.value_info) + len(body.doc_string.encode())
        total += _length(tensor.name for tensor in getattr(body, "initializer", ()))
    return total


def _length(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)
