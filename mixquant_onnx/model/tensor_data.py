"""Values of tensors: in the model, or in a file that is mapped while they are read.

A tensor in a file is an external tensor of ONNX whose location is an absolute path, or the key of a `DataFile`. Copies
of such a model hold no values.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary, finalize

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

MAPPED_FROM = 1 << 20
"""Bytes of an initializer from which on it is left in its file: below that, a copy costs less than mapping it."""

_PACKED: dict[int, int] = {TensorProto.UINT4: 2, TensorProto.INT4: 2, TensorProto.UINT2: 4, TensorProto.INT2: 4}
"""Values in a byte of the types below 8 bits."""


MAPPED_TYPES = frozenset(
    {
        *_PACKED, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UINT8,
        TensorProto.INT8, TensorProto.INT32, TensorProto.INT64,
    }
)  # fmt: skip
"""Types of tensors that stay in their files: those of weights, codes and indices."""


class DataFile:
    """An open file that tensors refer to, also after its name is gone.

    Args:
        key: What the location of these tensors is.
        stream: The file.
    """

    def __init__(self, key: str, stream: BinaryIO) -> None:
        self.key, self._stream = key, stream
        _OPEN[key] = self
        finalize(self, stream.close)

    def mapped(self, offset: int, length: int) -> npt.NDArray[np.uint8]:
        """Bytes of the file, which can only be read; the mapping ends with the array."""
        return mapped(self._stream, offset, length)


_OPEN: WeakValueDictionary[str, DataFile] = WeakValueDictionary()


def mapped(stream: BinaryIO, offset: int, length: int) -> npt.NDArray[np.uint8]:
    """Map a part of a file.

    Args:
        stream: The file; it may be closed afterwards.
        offset: Of the first byte.
        length: Number of bytes.

    Returns:
        The bytes, which can only be read; the mapping ends with the array.
    """
    if not length:
        return np.zeros(0, np.uint8)
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    whole = mmap.mmap(stream.fileno(), offset - start + length, access=mmap.ACCESS_READ, offset=start)
    return np.frombuffer(whole, np.uint8, length, offset - start)


def release(array: npt.NDArray[Any]) -> None:
    """Give the memory back in which a mapped file was read; its values are read again where they are needed.

    Args:
        array: A mapped array; nothing is done to others.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def is_outside(tensor: TensorProto) -> bool:
    """Whether the values are in a file alone; onnx leaves them in a model that it has saved, too."""
    return bool(uses_external_data(tensor)) and not tensor.HasField("raw_data")


def place_of(tensor: TensorProto) -> tuple[str, int, int]:
    """Location, offset and length in bytes of a tensor in a file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset = int(entries.get("offset", 0))
    return entries.get("location", ""), offset, int(entries.get("length", raw_nbytes(tensor)))


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Make an external tensor.

    Args:
        tensor: Is changed.
        location: Name of the file.
        offset: Of the first byte.
        length: Number of bytes.
    """
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def raw_nbytes(tensor: TensorProto) -> int:
    """Bytes of the values as in `raw_data`, by type and shape."""
    count = 1
    for size in tensor.dims:
        count *= size
    if tensor.data_type in _PACKED:
        return -(-count // _PACKED[tensor.data_type])
    return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def raw_bytes(tensor: TensorProto) -> bytes | memoryview:
    """The values as in `raw_data`: a copy, or the mapped file.

    Args:
        tensor: Has `raw_data`, or is in a file.

    Returns:
        The bytes.
    """
    return _read(tensor).data if is_outside(tensor) else tensor.raw_data


def _read(tensor: TensorProto) -> npt.NDArray[np.uint8]:
    location, offset, length = place_of(tensor)
    known = _OPEN.get(location)
    if known is not None:
        return known.mapped(offset, length)
    with Path(location).open("rb") as stream:
        return mapped(stream, offset, length)


def values_of(tensor: TensorProto) -> npt.NDArray[Any]:
    """The values of a tensor.

    Args:
        tensor: The tensor.

    Returns:
        An array in its shape, which can only be read; of a tensor in a file the mapped file itself, but for types below
        8 bits.
    """
    if not is_outside(tensor):
        return numpy_helper.to_array(tensor)
    if tensor.data_type in _PACKED:
        return numpy_helper.to_array(_inside(tensor))
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return _read(tensor).view(kind).reshape(tuple(tensor.dims))


def _inside(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    content = bytes(raw_bytes(tensor))
    copy.ClearField("data_location")
    del copy.external_data[:]
    copy.raw_data = content
    return copy


def outside_nbytes(model: ModelProto) -> int:
    """Bytes of the initializers that are in files."""
    return sum(place_of(tensor)[2] for tensor in model.graph.initializer if is_outside(tensor))


def with_data(model: ModelProto) -> ModelProto:
    """A model that holds all its values.

    Args:
        model: The model; not changed.

    Returns:
        A copy; `model` itself where no initializer is in a file. What is in no file that is known or there stays so.
    """
    if not any(map(_is_there, model.graph.initializer)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if _is_there(tensor):
            tensor.CopyFrom(_inside(tensor))
    return copy


def _is_there(tensor: TensorProto) -> bool:
    if not is_outside(tensor):
        return False
    location = place_of(tensor)[0]
    return location in _OPEN or Path(location).is_file()
