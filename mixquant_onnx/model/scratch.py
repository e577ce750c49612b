"""A file without a name, for codes of a model that is too large for memory."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mixquant_onnx.model.tensor_data import MAPPED_FROM, MAPPED_TYPES, DataFile, refer

_numbers = count()


class Scratch:
    """Values that are written to a file and mapped where they are read. The file ends with this object.

    Args:
        folder: On whose disk it is; None for the system's folder of temporary files.

    Attributes:
        file: The file that tensors refer to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as what refers to it
        self._lock = Lock()
        self.file = DataFile(f"scratch {next(_numbers)}", self._stream)

    def array(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes as a mapped array of the same shape; small ones as they are."""
        if values.nbytes < MAPPED_FROM:
            return values
        offset = self._write(np.ascontiguousarray(values).reshape(-1).data)
        return self.file.mapped(offset, values.nbytes).reshape(values.shape)

    def tensor(self, tensor: TensorProto) -> TensorProto:
        """A tensor that refers to the file; a small one as it is. Clearing a field would not free its memory."""
        if tensor.data_type not in MAPPED_TYPES or not tensor.HasField("raw_data"):
            return tensor
        content = tensor.raw_data
        if len(content) < MAPPED_FROM:
            return tensor
        made = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        refer(made, self.file.key, self._write(content), len(content))
        return made

    def _write(self, content: bytes | memoryview) -> int:
        with self._lock:
            offset = self._stream.seek(0, 2)
            self._stream.write(content)
            self._stream.flush()
        return offset
