"""Values kept between runs: in memory up to a limit, all others in files of a temporary folder."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from mixquant_onnx.numerics.arrays import FloatArray


class StoredValue:
    """A value of a `ValueStore`; when it is garbage collected, its memory or its file is free again.

    Args:
        value: The value.
        file: The file that holds it; None to hold the value itself in memory.

    Attributes:
        dtype: Type of its elements.
        ndim: Number of its axes.
    """

    def __init__(self, value: FloatArray, file: Path | None) -> None:
        self.dtype, self.ndim = value.dtype, value.ndim
        self._shape = value.shape
        self._held: FloatArray | Path = value if file is None else file

    def read(self) -> FloatArray:
        """The value.

        Returns:
            The array itself, or a new one with the contents of the file.

        Raises:
            OSError: The file cannot be read.
        """
        if isinstance(self._held, np.ndarray):
            return self._held
        return np.fromfile(self._held, np.uint8).view(self.dtype).reshape(self._shape)


class ValueStore:
    """Arrays in memory and on the disk.

    The folder is in the system's one for temporary files (TMPDIR). It is removed when the store and its values are
    garbage collected, at the latest at the end of the program.

    Args:
        most_bytes: Most bytes in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._taken = most_bytes, 0
        self._folder: Path | None = None
        self._numbers = itertools.count()

    def keep(self, value: FloatArray) -> StoredValue:
        """Store a value.

        Args:
            value: The array; must not change afterwards.

        Returns:
            The stored value.

        Raises:
            OSError: The limit is reached, and the disk is full or not writable.
        """
        if self._taken + value.nbytes <= self._most or value.dtype.hasobject:
            self._taken += value.nbytes
            stored = StoredValue(value, None)
            weakref.finalize(stored, self._free, value.nbytes)
            return stored
        file = self._new_file()
        try:
            np.ascontiguousarray(value).tofile(file)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        stored = StoredValue(value, file)
        weakref.finalize(stored, self._remove, file)
        return stored

    def _free(self, size: int) -> None:
        self._taken -= size

    def _remove(self, file: Path) -> None:
        """A method, so that the folder lasts as long as its files."""
        file.unlink(missing_ok=True)

    def _new_file(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="mixquant-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / str(next(self._numbers))
