"""Texts as rows of token ids, by a function of the user's."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import numpy as np

from mixquant_onnx.config.parsing import Tokenizer
from mixquant_onnx.errors import DataError, OptionError, first_line
from mixquant_onnx.numerics.arrays import FloatArray

Encode = Callable[[str], Sequence[int]]


def text_files(path: Path) -> list[Path]:
    """The files of texts that a path names.

    Args:
        path: A file or a folder.

    Returns:
        The file, or the .txt files of the folder in the order of their names; empty for .npz files.
    """
    if path.is_dir():
        return sorted(path.glob("*.txt"))
    return [] if path.suffix == ".npz" else [path]


def token_ids(files: Sequence[Path], tokenizer: Tokenizer) -> list[FloatArray]:
    """The token ids of texts.

    Args:
        files: Files of text in UTF-8.
        tokenizer: The function, or where it is. Its module is imported, which runs its code.

    Returns:
        [tokens] for each file.

    Raises:
        OptionError: There is no such function.
        DataError: A file is missing or no text, or the function fails on it, or gives no whole numbers.
    """
    encode = _function(tokenizer) if isinstance(tokenizer, str) else tokenizer
    return [_encoded(file, encode) for file in files]


def _encoded(file: Path, encode: Encode) -> FloatArray:
    try:
        text = file.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text ({first_line(error)})") from error
    try:
        found = np.asarray(list(encode(text)))
    except Exception as error:  # code of the user's
        raise DataError(f"{file}: --tokenizer failed: {type(error).__name__}: {first_line(error)}") from error
    if found.ndim != 1 or found.dtype.kind not in "iu" or not found.size:
        raise DataError(f"{file}: --tokenizer gave no list of token ids, but {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def _function(name: str) -> Encode:
    """The function of that name. Raises OptionError."""
    place, _, path = name.rpartition(":")
    try:
        module = _of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        found = attrgetter(path)(module)
    except Exception as error:  # code of the user's
        raise OptionError(f"--tokenizer {name}: {type(error).__name__}: {first_line(error)}") from error
    if not callable(found):
        raise OptionError(f"--tokenizer {name}: is no function")
    encode: Encode = found
    return encode


def _of_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
