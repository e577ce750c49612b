"""Models whose large tensors are written outside, one after the other, without a copy of the model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import EncodeError, Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from mixquant_onnx.model.scopes import subgraphs
from mixquant_onnx.model.tensor_data import is_outside, outside_nbytes, raw_bytes, raw_nbytes, refer, with_data

LARGEST_PROTOBUF = 2_000_000_000
"""Bytes of a model beyond which its tensors are written outside (protobuf's limit is 2 GiB)."""

OUTSIDE_FROM = 1024
"""Bytes of a tensor from which on it is written outside."""


def message_of(model: ModelProto, deterministic: bool = False) -> bytes | None:
    """A model as one message of protobuf; None where it is too large for one.

    Args:
        model: The model.
        deterministic: Whether equal models give equal bytes.
    """
    outside = outside_nbytes(model)
    if outside >= LARGEST_PROTOBUF:
        return None
    try:
        made: bytes = with_data(model).SerializeToString(deterministic=deterministic)
    except EncodeError:  # of protobuf's own implementation over 2 GiB
        return None
    return made if len(made) < LARGEST_PROTOBUF else None


def is_large(model: ModelProto) -> bool:
    """Whether a model cannot be one message of protobuf."""
    try:
        return bool(model.ByteSize() + outside_nbytes(model) >= LARGEST_PROTOBUF)
    except EncodeError:
        return True


def write_outside(model: ModelProto, path: Path, data_name: str) -> list[Path]:
    """Write a model and its large initializers.

    Args:
        model: The model; not changed.
        path: The file to write.
        data_name: Name of the data file, beside `path`; an existing one is replaced.

    Returns:
        The files written, the model first.

    Source:
        ONNX external data: TensorProto.external_data with location, offset and length in bytes.
    """
    data = path.parent / data_name
    data.unlink(missing_ok=True)
    copy = _without_graph(model)
    with data.open("wb") as stream:
        _copy_graph(model.graph, copy.graph, stream, data_name)
        size = stream.tell()
    path.write_bytes(copy.SerializeToString())
    if not size:
        data.unlink()
        return [path]
    data.chmod(path.stat().st_mode)
    return [path, data]


def _without_graph(model: ModelProto) -> ModelProto:
    """A copy of everything but the graph, which is left as large as its tensors."""
    copy = ModelProto()
    copy_fields(model, copy, {"graph"})
    return copy


def copy_fields(source: Message, copy: Message, without: Set[str]) -> None:
    """Copy the fields of a message that are plain values or repeated."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(copy, field.name, value)
        else:
            getattr(copy, field.name).extend(value)


def _copy_graph(graph: GraphProto, copy: GraphProto, stream: BinaryIO, location: str) -> None:
    copy_fields(graph, copy, {"initializer", "node"})
    for tensor in graph.initializer:
        _copy_tensor(tensor, copy.initializer.add(), stream, location)
    copy.node.extend(graph.node)
    for node in copy.node:
        _move_out(node, stream, location)


def _move_out(node: NodeProto, stream: BinaryIO, location: str) -> None:
    """Write the large initializers of the graphs of a node outside."""
    for tensor in _initializers_inside(node):
        if len(tensor.raw_data) >= OUTSIDE_FROM:
            _write(tensor, tensor.raw_data, stream, location)


def _initializers_inside(node: NodeProto) -> Iterator[TensorProto]:
    for _, graph in subgraphs(node):
        yield from graph.initializer
        for inner in graph.node:
            yield from _initializers_inside(inner)


def _copy_tensor(tensor: TensorProto, copy: TensorProto, stream: BinaryIO, location: str) -> None:
    if not is_outside(tensor) and (not tensor.HasField("raw_data") or raw_nbytes(tensor) < OUTSIDE_FROM):
        copy.CopyFrom(tensor)
        return
    copy_fields(tensor, copy, {"raw_data", "external_data"})
    _write(copy, raw_bytes(tensor), stream, location)


def _write(tensor: TensorProto, content: bytes | memoryview, stream: BinaryIO, location: str) -> None:
    refer(tensor, location, stream.tell(), len(content))
    stream.write(content)
