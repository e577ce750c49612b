"""Batches and labels from .npz files or from memory, checked against the inputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixquant_onnx.config.parsing import Labels
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.errors import DataError
from mixquant_onnx.model.signature import Input
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.session import Feed

LABELS = "labels"
"""Key of the labels in an .npz file."""


Complete = Callable[[Path, Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""Adds what follows from the arrays of a file."""


def one_feed(source: Path, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The arrays as they are."""
    return [given]


def load_data(path: Path, labels: Labels | None, inputs: list[Input], complete: Complete = one_feed) -> Data:
    """Read batches from an .npz file (arrays by input name), or from a folder of them in the order of their names.

    The tensors of a sequence are `name.0`, `name.1` and so on, or the rows of the array `name`. Where a model fixes its
    batch size, longer arrays are split into batches, all inputs alike.

    Args:
        path: The file or folder.
        labels: A file of labels, or class numbers; None to use the key `labels` of the .npz files, if there is one.
        inputs: Inputs of the model.
        complete: Adds what follows from the arrays of a file, which may be several batches.

    Returns:
        The data.

    Raises:
        DataError: A file is missing, or its arrays do not fit the model.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise DataError(f"{path}: no such .npz file, or no .npz file in this folder")
    feeds: list[Feed] = []
    found: list[FloatArray] = []
    for file in files:
        arrays = _read(file)
        if LABELS in arrays and LABELS not in {i.name for i in inputs}:
            found.append(arrays.pop(LABELS))
        feeds += [feed for part in complete(file, arrays) for feed in _cut(file, part, inputs)]
    return Data(feeds=tuple(feeds), labels=_given(labels) if labels is not None else _joined(found, path))


def data_of(
    feeds: Sequence[Mapping[str, Any]], labels: Labels | None, inputs: list[Input], complete: Complete = one_feed
) -> Data:
    """Batches that the caller has in memory, checked and split like those of files.

    Args:
        feeds: Arrays by input name, for each batch.
        labels: A file of labels, or class numbers; None to use the key `labels` of the batches, if there is one.
        inputs: Inputs of the model.
        complete: As of `load_data`.

    Returns:
        The data.

    Raises:
        DataError: There are no batches, or they do not fit the model.
    """
    if not feeds:
        raise DataError("data: holds no feed; give arrays by input name")
    source = Path("data")
    made = [feed for given in feeds for part in complete(source, given) for feed in _cut(source, part, inputs)]
    own = [] if LABELS in {i.name for i in inputs} else [np.asarray(one[LABELS]) for one in feeds if LABELS in one]
    return Data(feeds=tuple(made), labels=_given(labels) if labels is not None else _joined(own, Path("data")))


def _given(labels: Labels) -> FloatArray:
    """Labels of a file, or in memory. Raises DataError."""
    if isinstance(labels, Path):
        return _classes(_read_labels(labels), labels)
    try:
        return _classes(np.asarray(labels), Path("labels"))
    except ValueError as error:
        raise DataError(f"labels: no array ({error}); give one class number a row") from error


def _joined(found: Sequence[FloatArray], source: Path) -> FloatArray | None:
    return np.concatenate([_classes(one, source) for one in found]) if found else None


def _read(file: Path) -> dict[str, FloatArray]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises zipfile, OSError and ValueError classes here
        if file.suffix == ".txt":
            raise DataError(
                f"{file}: not an .npz file; texts of a model that reads token ids need --tokenizer"
            ) from error
        raise DataError(
            f"{file}: not an .npz file of plain arrays ({type(error).__name__}); write it with numpy.savez, "
            f"strings as an array of dtype str"
        ) from error


def _classes(values: FloatArray, file: Path) -> FloatArray:
    array = np.atleast_1d(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{file}: labels are {array.dtype} of shape {array.shape}; give one class number a row")
    return array


def _read_labels(file: Path) -> FloatArray:
    if not file.is_file():
        raise DataError(f"{file}: no such file; give .npy, .npz with '{LABELS}', or text with one number a line")
    try:
        if file.suffix == ".npz":
            return _read(file)[LABELS]
        return np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.loadtxt(file, dtype=np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: holds no labels; give .npy, .npz with '{LABELS}', or one number a line") from error


def _cut(file: Path, given: Mapping[str, Any], inputs: list[Input]) -> Iterator[Feed]:
    """One batch, or several where an input of fixed size has more samples: all inputs are split alike."""
    values = {i.name: _fitting(file, given, i) for i in inputs}
    count, axes = _cut_axes(file, values, inputs)
    for position in range(count):
        yield {
            name: value if (axis := axes[name]) is None else _piece(value, axis, position, count)
            for name, value in values.items()
        }


def _cut_axes(file: Path, values: Mapping[str, Any], inputs: list[Input]) -> tuple[int, dict[str, int | None]]:
    """Number of batches that `values` make, and the axis along which each is split (None: shared). Raises DataError."""
    axes = {i.name: _cut_axis(values[i.name], i) for i in inputs}
    fixed = [i for i in inputs if axes[i.name] == 0]
    count = max((_pieces(values[i.name], i, 0) for i in fixed), default=1)
    lengths = {len(values[i.name]) for i in fixed}
    for i in inputs:
        axis, value = axes[i.name], values[i.name]
        if axis is not None and not (count > 1 and _pieces(value, i, axis) == count):
            raise _misfit(file, value, i) if axis else _other_rows(file, value, i)
        if axis is None and count > 1 and _free_first(i) and len(value) > 1:
            if len(value) not in lengths:
                raise _other_rows(file, value, i)
            axes[i.name] = 0
    return count, axes


def _free_first(expected: Input) -> bool:
    return not expected.sequence and bool(expected.dims) and not isinstance((expected.dims or (0,))[0], int)


def _piece(value: FloatArray, axis: int, position: int, count: int) -> FloatArray:
    size = value.shape[axis] // count
    return value[(slice(None),) * axis + (slice(position * size, (position + 1) * size),)]


def _pieces(value: FloatArray, expected: Input, axis: int) -> int:
    assert expected.dims is not None
    return int(value.shape[axis]) // int(expected.dims[axis])


def _cut_axis(value: Any, expected: Input) -> int | None:
    """The axis along which `value` is a multiple of the input's size; None where it fits as it is."""
    if expected.sequence or expected.dims is None:
        return None
    differ = [k for k, d in enumerate(expected.dims) if isinstance(d, int) and d != value.shape[k]]
    return differ[0] if differ else None


def _fitting(file: Path, given: Mapping[str, Any], expected: Input) -> Any:
    """The value for an input: an array, or a list of arrays for a sequence. Raises DataError."""
    name = expected.name
    if not expected.sequence:
        if name not in given:
            raise DataError(f"{file}: has no array '{name}'; give each input of the model under its name")
        array = _typed(file, np.asarray(given[name]), expected)
        _check_shape(file, array, expected)
        return array
    numbered = [given[key] for key in (f"{name}.{k}" for k in range(len(given))) if key in given]
    if name not in given and not numbered:
        raise DataError(f"{file}: has no sequence '{name}'; give its tensors as arrays '{name}.0', '{name}.1', ...")
    return [_typed(file, np.asarray(array), expected) for array in given.get(name, numbered)]


def _typed(file: Path, array: FloatArray, expected: Input) -> FloatArray:
    """`array` in the input's type, strings as objects. Raises DataError for another type, or NaN."""
    if expected.dtype == np.dtype(object):
        if array.dtype.kind not in "USO":
            raise DataError(f"{file}: input '{expected.name}' is {array.dtype}, the model takes strings")
        return np.char.decode(array, "utf8").astype(object) if array.dtype.kind == "S" else array.astype(object)
    if array.dtype != expected.dtype:
        raise DataError(f"{file}: input '{expected.name}' is {array.dtype}, the model takes {expected.dtype}")
    if np.issubdtype(array.dtype, np.floating) and not (array < np.inf).all():
        raise DataError(f"{file}: input '{expected.name}' holds NaN or +Inf; remove those rows (a mask may hold -Inf)")
    return array


def _check_shape(file: Path, array: FloatArray, expected: Input) -> None:
    """Raise DataError where the shape is neither the input's nor a multiple of it along one axis."""
    if array.ndim and array.shape[0] == 0:
        raise DataError(f"{file}: input '{expected.name}' holds no values (shape {array.shape}); give at least one row")
    dims = expected.dims
    if dims is None:
        return
    if array.ndim != len(dims):
        raise _misfit(file, array, expected)
    differ = [(d, n) for d, n in zip(dims, array.shape, strict=True) if isinstance(d, int) and d != n]
    if len(differ) > 1 or any(n == 0 or n % d for d, n in differ):
        raise _misfit(file, array, expected)


def _misfit(file: Path, array: FloatArray, expected: Input) -> DataError:
    wanted = "x".join(str(d) or "?" for d in expected.dims or ())
    return DataError(f"{file}: input '{expected.name}' has shape {array.shape}, the model takes {wanted}")


def _other_rows(file: Path, array: FloatArray, expected: Input) -> DataError:
    return DataError(
        f"{file}: input '{expected.name}' has {array.shape[0]} rows, others have more or fewer; "
        f"give as many of each, or one .npz file for each run"
    )
