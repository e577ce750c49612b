"""Digests of what results depend on: a model, rows, texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mixquant_onnx.config.parsing import Rows
from mixquant_onnx.errors import DataError
from mixquant_onnx.model.external import message_of
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed, readable

_CHUNK = 1 << 20
"""Bytes of a file that are read at once. Does not change the result."""


def digest(*parts: bytes | str | FloatArray) -> str:
    """A digest of bytes, texts and arrays.

    Args:
        *parts: What is told apart; order counts.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}|".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            text = part.encode() if isinstance(part, str) else part
            found.update(f"{len(text)}|".encode())
            found.update(text)
    return found.hexdigest()


def digest_of_files(paths: Iterable[Path]) -> str:
    """A digest of the contents of files.

    Args:
        paths: The files.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: A file cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.stat().st_size}|".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
    return found.hexdigest()


def digest_of_model(loaded: Loaded) -> str:
    """A digest of a model's files, or of the model where it was given in memory.

    Args:
        loaded: The model.

    Returns:
        64 hexadecimal digits.
    """
    if loaded.path is None:
        message = message_of(loaded.float_model, deterministic=True)
        if message is not None:
            return digest(message)
        with readable(loaded.float_model) as found:
            return digest_of_files(sorted(Path(str(found.source)).parent.iterdir()))
    return digest_of_files([loaded.path, *loaded.files])


def digest_of_feeds(feeds: Iterable[Feed]) -> str:
    """A digest of batches.

    Args:
        feeds: The batches.

    Returns:
        64 hexadecimal digits.
    """
    parts: list[str | FloatArray] = []
    for feed in feeds:
        parts.append(f"batch of {len(feed)}")
        for name, value in sorted(feed.items()):
            parts += [name, *(value if isinstance(value, list) else [np.asarray(value)])]
    return digest(*parts)


def digest_of_source(rows: Rows | None, texts: bool = False) -> str:
    """A digest of what --data names.

    Args:
        rows: A file, a folder, or batches in memory; None for none.
        texts: Whether texts of a folder are rows too.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: A file cannot be read.
    """
    if rows is None:
        return digest("none")
    if isinstance(rows, tuple):
        return digest_of_feeds({key: np.asarray(value) for key, value in feed.items()} for feed in rows)
    kinds = ("*.npz", "*.txt") if texts else ("*.npz",)
    files = sorted(one for kind in kinds for one in rows.glob(kind)) if rows.is_dir() else [rows]
    try:
        return digest_of_files(files)
    except OSError as error:
        raise DataError(f"{rows}: cannot be read ({error.strerror or error})") from error
