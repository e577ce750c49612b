"""External tensors of a model that is read: large ones stay in their files, others are loaded."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.tensor_data import MAPPED_FROM, MAPPED_TYPES, DataFile, place_of, raw_nbytes, refer

_MOST_OPEN = 64
"""Data files that are kept open; systems allow 256 to 1,024. Others are opened each time: a model with a file for each
tensor is not one of this project, whose files alone may be deleted while they are read."""


def locations(model: ModelProto) -> list[str]:
    """Names of a model's data files, sorted."""
    tensors = [t for t in (*model.graph.initializer, *_others(model)) if uses_external_data(t)]
    return sorted({e.value for t in tensors for e in t.external_data if e.key == "location"})


def _others(model: ModelProto) -> list[TensorProto]:
    """Tensors that are no initializers of the main graph."""
    found: list[TensorProto] = []
    for scope in walk(model):
        if isinstance(scope.body, onnx.GraphProto) and scope.parent is not None:
            found += scope.body.initializer
        for node in scope.body.node:
            found += [v for v in attributes(node).values() if isinstance(v, TensorProto)]
    return found


def read_external(model: ModelProto, folder: Path) -> tuple[DataFile, ...]:
    """Load the external tensors of a model, and let its large initializers refer to their files.

    Args:
        model: As parsed; its external tensors are changed.
        folder: Where the model is.

    Returns:
        The files that the model refers to from then on; it may be read as long as they are held.

    Raises:
        ValueError, OSError, onnx.checker.ValidationError: A location, offset or length is bad.
    """
    files: dict[str, DataFile] = {}
    for tensor in filter(uses_external_data, model.graph.initializer):
        if _stays(tensor):
            _leave(tensor, folder, files)
        else:
            load_external_data_for_tensor(tensor, str(folder))
    for tensor in filter(uses_external_data, _others(model)):
        load_external_data_for_tensor(tensor, str(folder))
    return tuple(files.values())


def _leave(tensor: TensorProto, folder: Path, files: dict[str, DataFile]) -> None:
    """Let a tensor refer to its file, which is opened once. Raises ValueError, OSError."""
    _check(tensor, folder)
    location, offset, length = place_of(tensor)
    path = folder / location
    if length != raw_nbytes(tensor) or offset + length > path.stat().st_size:
        raise ValueError(f"{length} bytes from offset {offset} of '{location}' are not tensor '{tensor.name}'")
    key = str(path.resolve())
    if key not in files and len(files) < _MOST_OPEN:
        files[key] = DataFile(key, path.open("rb"))
    refer(tensor, key, offset, length)


def _stays(tensor: TensorProto) -> bool:
    """Whether an external initializer is large, and of a type that can be mapped."""
    return tensor.data_type in MAPPED_TYPES and raw_nbytes(tensor) >= MAPPED_FROM


def _check(tensor: TensorProto, folder: Path) -> None:
    """Let onnx check the location, without reading: it refuses links and paths that leave the folder."""
    probe = TensorProto(name=tensor.name, data_type=TensorProto.UINT8, dims=[0], data_location=TensorProto.EXTERNAL)
    probe.external_data.extend(entry for entry in tensor.external_data if entry.key != "length")
    probe.external_data.add(key="length", value="0")
    load_external_data_for_tensor(probe, str(folder))
