"""Load and save models: files, external data, onnx_graphsurgeon graphs. Errors are one line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from mixquant_onnx.errors import ModelError, OutputError, first_line, writing
from mixquant_onnx.model.external import LARGEST_PROTOBUF, message_of, write_outside
from mixquant_onnx.model.external_input import locations, read_external
from mixquant_onnx.model.soundness import check_sound
from mixquant_onnx.model.tensor_data import DataFile

_MODEL_START = b"\x08"
"""First byte of an ONNX model: the tag of ir_version, the field of the lowest number."""

_ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """A model with its tensors, large external ones in their files.

    Attributes:
        model: The model.
        nbytes: Size of its files in bytes, external data included.
        external: Whether it has external data.
        files: The external data files.
        path: The file that it was read from; None for a model given in memory.
        original: The float model as it was read, where `model` rounds activations; None where `model` is it.
        data: Its data files, kept open: tensors of `model` refer to them.
    """

    model: ModelProto
    nbytes: int
    external: bool
    files: tuple[Path, ...] = ()
    path: Path | None = None
    original: ModelProto | None = None
    data: tuple[DataFile, ...] = ()

    @property
    def is_large(self) -> bool:
        """Whether it is too large to be run without being asked for: over 2 GB."""
        return self.nbytes >= LARGEST_PROTOBUF

    @property
    def float_model(self) -> ModelProto:
        """The model as it was read."""
        return self.model if self.original is None else self.original


def load(path: Path) -> Loaded:
    """Read a model with its external data.

    Args:
        path: The .onnx file.

    Returns:
        The model.

    Raises:
        ModelError: The file is missing, truncated, not an ONNX model, or lacks external data.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; name an .onnx file")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or cut short; export or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; check its permissions") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: holds no ONNX graph; export or copy it again")
    files = locations(model)
    for name in files:
        if not _is_file(path.parent / name):
            told = name if len(name) < 200 else f"{name[:200]}..."
            raise ModelError(f"{path}: its external data file '{told}' is missing; put it beside the model")
    try:
        data = read_external(model, path.parent)
    except Exception as error:  # onnx raises ValueError, OSError and checker errors for bad offsets and paths
        raise ModelError(f"{path}: its external data cannot be read ({first_line(error, 200)})") from error
    size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in files)
    check_sound(model, str(path))
    outside = tuple((path.parent / name).resolve() for name in files)
    return Loaded(model=model, nbytes=size, external=bool(files), files=outside, path=path.resolve(), data=data)


def _is_file(path: Path) -> bool:
    """Whether a file is there; not where the system does not take its name."""
    try:
        return path.is_file()
    except OSError:
        return False


def as_loaded(model: Any) -> Loaded:
    """Load or copy a model for editing.

    Args:
        model: A ModelProto (copied), an onnx_graphsurgeon Graph (exported), or a path.

    Returns:
        The model; the caller's object is not shared.

    Raises:
        ModelError: It is none of these, or the file cannot be loaded.
    """
    if isinstance(model, (str, Path)):
        return load(Path(model))
    if isinstance(model, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(model)
        check_sound(copy, "the model")
        return Loaded(model=copy, nbytes=copy.ByteSize(), external=False)
    if type(model).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon as gs

        exported = gs.export_onnx(model)
        return Loaded(model=exported, nbytes=exported.ByteSize(), external=False)
    raise ModelError(f"a {type(model).__name__} is not a model; pass a path, a ModelProto or a graphsurgeon Graph")


def save(model: ModelProto, path: Path, external: bool, data_name: str) -> list[Path]:
    """Write a model.

    Args:
        model: The model; not changed.
        path: The file to write.
        external: Whether to store tensors outside; they are in any case when too large for protobuf.
        data_name: Name of the external data file, beside `path`.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: A file cannot be written.
    """
    with writing(path):
        message = None if external else message_of(model)
        if message is not None:
            path.write_bytes(message)
            return [path]
        return write_outside(model, path, data_name)


def save_copy(loaded: Loaded, path: Path, data_name: str) -> list[Path]:
    """Write a model unchanged, byte by byte where it was a single file.

    Args:
        loaded: The model as it was read.
        path: The file to write.
        data_name: Name of the external data file, beside `path`.

    Returns:
        The files written, the model first.

    Raises:
        OutputError: A file cannot be written.
    """
    if loaded.path is None or loaded.external:
        return save(loaded.float_model, path, loaded.external, data_name)
    with writing(path):
        path.write_bytes(loaded.path.read_bytes())
    return [path]


def own_data(path: Path) -> list[Path]:
    """External data files of an earlier output that this project wrote.

    Args:
        path: The model.

    Returns:
        Files named `<model>*.data`; none where there is no such model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError):
        return []
    names = locations(model)
    return [path.parent / n for n in names if n.startswith(path.name) and n.endswith(".data")]


def check_writable(path: Path, model: bool = False) -> None:
    """Check early, before any work is done, that a file can be written, and that no file of another kind is lost.

    Args:
        path: The file.
        model: Whether a model will be written.

    Raises:
        OutputError: It is a folder or a device, its folder is missing or not writable, or it exists and is no model
            where a model would be written, a model or .npz where something else would be.
    """
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name the file to write")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device, not a file; name the file to write")
    if not folder.is_dir():
        raise OutputError(f"{path}: folder '{folder}' does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: folder '{folder}' is not writable; choose another")
    if path.exists():
        _check_kind(path, model)


def _check_kind(path: Path, model: bool) -> None:
    with writing(path), path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if start.startswith(_ZIP_START):
        found = "is an .npz file (rows go to --data)"
    elif model and start and not start.startswith(_MODEL_START):
        found = "is no ONNX model"
    elif not model and start.startswith(_MODEL_START):
        found = "is an ONNX model"
    else:
        return
    raise OutputError(f"{path}: exists and {found}; name another file to write, or delete this one")


def place(written: Sequence[Path], output: Path, loaded: Loaded) -> tuple[Path, ...]:
    """Move the files of a model to their destination, the model itself last, and delete replaced data files.

    Args:
        written: Files in a temporary folder, the model first.
        output: Resolved path of the model's destination; the others go beside it.
        loaded: The input, whose external data is not deleted unless the model itself is overwritten.

    Returns:
        The files at their destination, the model first.
    """
    in_place = loaded.path == output
    replaced = [f for f in own_data(output) if in_place or f not in loaded.files]
    placed = [output.parent / file.name for file in written]
    try:
        for file, target in zip(reversed(written), reversed(placed), strict=True):
            file.replace(target)
    except BaseException:  # a signal too
        if written[0].exists():
            for file, target in zip(written[1:], placed[1:], strict=True):
                if not file.exists():
                    target.unlink(missing_ok=True)
        raise
    for file in replaced:
        if file not in placed:
            file.unlink(missing_ok=True)
    return tuple(placed)


def free_data_name(output: Path) -> str:
    """A name for external data that no file beside `output` has, so that data of the input is not overwritten."""
    name, count = f"{output.name}.data", 1
    while (output.parent / name).exists():
        name, count = f"{output.name}.{count}.data", count + 1
    return name
