"""Inputs for a model: from files, or generated to be valid for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from mixquant_onnx.errors import DataError
from mixquant_onnx.graph.scopes import walk
from mixquant_onnx.runtime import Feed
from mixquant_onnx.types import FloatArray

LABELS = "labels"
SEED = 0

Dims = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A model input. Unknown sizes are names, or "" where the model gives none."""

    name: str
    dtype: np.dtype[Any]
    dims: Dims | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """Feeds in order, and labels for all their rows where there are any.

    `origin`: given by the user; `proxy`: not the user's, but of the kind that the model reads; `noise`: random.
    `name`: what the rows are called in messages.
    """

    feeds: tuple[Mapping[str, FloatArray], ...]
    labels: FloatArray | None
    origin: Literal["user", "proxy", "noise"] = "user"
    name: str = "rows of your data"


def model_inputs(model: ModelProto) -> list[Input]:
    """The inputs that the caller must give (initializers are not among them)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in stored or not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        dims: Dims | None = None
        if tensor.HasField("shape"):
            dims = tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim)
        found.append(Input(name=value.name, dtype=np.dtype(tensor_dtype_to_np_dtype(tensor.elem_type)), dims=dims))
    return found


def load_data(path: Path, labels: Path | None, inputs: list[Input]) -> Data:
    """Feeds of an .npz file (one feed, arrays by input name) or of a folder of them (one each).

    A batch longer than a fixed first dimension is cut. Raises DataError for whatever does not fit.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise DataError(f"{path}: no such .npz file, or no .npz file in this folder")
    feeds: list[Mapping[str, FloatArray]] = []
    found: list[FloatArray] = []
    for file in files:
        arrays = _read(file)
        if LABELS in arrays and LABELS not in {i.name for i in inputs}:
            found.append(arrays.pop(LABELS))
        feeds += list(_cut(file, arrays, inputs))
    if labels is not None:
        found = [_read_labels(labels)]
    joined = np.concatenate([_classes(a, labels or path) for a in found]) if found else None
    return Data(feeds=tuple(feeds), labels=joined)


def data_of(feeds: Sequence[Mapping[str, FloatArray]], labels: Path | None, inputs: list[Input]) -> Data:
    """Feeds that the caller has in memory, checked and cut as those of files. Raises DataError."""
    made = [feed for given in feeds for feed in _cut(Path("data"), dict(given), inputs)]
    classes = None if labels is None else _classes(_read_labels(labels), labels)
    return Data(feeds=tuple(made), labels=classes)


def _read(file: Path) -> dict[str, FloatArray]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises zipfile, OSError and ValueError classes here
        raise DataError(f"{file}: not an .npz file ({type(error).__name__}); write it with numpy.savez") from error


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


def _cut(file: Path, arrays: dict[str, FloatArray], inputs: list[Input]) -> Iterator[Mapping[str, FloatArray]]:
    names = [i.name for i in inputs]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{file}: has no array '{missing[0]}'; the model's inputs are {', '.join(names)}")
    pieces = {i.name: _check(file, arrays[i.name], i) for i in inputs}
    count = max(pieces.values(), default=1)
    for position in range(count):
        feed = {}
        for i in inputs:
            array = arrays[i.name]
            if pieces[i.name] > 1:
                if pieces[i.name] != count:
                    raise DataError(f"{file}: input '{i.name}' has {array.shape[0]} rows, others have more or fewer")
                size = int(i.dims[0]) if i.dims else 1
                array = array[position * size : (position + 1) * size]
            feed[i.name] = array
        yield feed


def _check(file: Path, array: FloatArray, expected: Input) -> int:
    """How many feeds `array` makes."""
    if array.dtype != expected.dtype:
        raise DataError(f"{file}: input '{expected.name}' is {array.dtype}, the model takes {expected.dtype}")
    if array.size == 0:
        raise DataError(f"{file}: input '{expected.name}' holds no values (shape {array.shape}); give at least one row")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise DataError(f"{file}: input '{expected.name}' holds NaN or Inf; remove those rows")
    dims = expected.dims
    if dims is None:
        return 1
    shape = array.shape
    fits = len(shape) == len(dims) and all(
        not isinstance(d, int) or d == n for d, n in list(zip(dims, shape, strict=True))[1:]
    )
    first = dims[0] if dims else ""
    if fits and isinstance(first, int) and shape[0] != first:
        fits = first > 0 and shape[0] % first == 0
        if fits:
            return int(shape[0]) // first
    if not fits:
        wanted = "x".join(str(d) or "?" for d in dims)
        raise DataError(f"{file}: input '{expected.name}' has shape {shape}, the model takes {wanted}")
    return 1


def batches(model: ModelProto, data: Data, rows: int = 32) -> tuple[Feed, ...]:
    """The feeds of `data`, those with more than `rows` rows cut where that is safe.

    It is where all inputs and outputs name the same free first dimension.
    """
    values = [*model.graph.input, *model.graph.output]
    firsts = {value.type.tensor_type.shape.dim[0].dim_param for value in values if value.type.tensor_type.shape.dim}
    named = all(value.type.tensor_type.shape.dim for value in values)
    if not named or len(firsts) != 1 or firsts == {""}:
        return data.feeds
    cut: list[Feed] = []
    for feed in data.feeds:
        count = min(len(array) for array in feed.values())
        cut += [{k: v[n : n + rows] for k, v in feed.items()} for n in range(0, count, rows)]
    return tuple(cut)


def row_count(feed: Feed) -> int:
    """Rows of the first input; one for a feed without rows."""
    first = next(iter(feed.values()), None)
    return 1 if first is None or first.ndim == 0 else len(first)


def thinned(feeds: tuple[Feed, ...], rows: int) -> tuple[Feed, ...]:
    """Every n-th of `feeds`, so that they hold about `rows` rows of their first input at most."""
    total = sum(map(row_count, feeds))
    return feeds[:: max(1, -(-total // rows))] if len(feeds) > 1 else feeds


def split(model: ModelProto, data: Data, every: int = 4) -> tuple[Data, Data]:
    """(what to fit on, what to judge by): each `every`-th batch is held back. The same data twice if not to be cut.

    Labels go with their rows where the feeds are rows of one model input.
    """
    rows = 4
    parts = batches(model, data, rows)
    if len(parts) < 2:
        return data, data
    held = [k % every == every - 1 or (k == len(parts) - 1 and len(parts) < every) for k in range(len(parts))]
    which = np.repeat(held, [row_count(feed) for feed in parts])
    labels = data.labels if data.labels is not None and len(data.labels) == len(which) else None

    def part(wanted: bool) -> Data:
        kept = tuple(feed for feed, h in zip(parts, held, strict=True) if h == wanted)
        return replace(data, feeds=kept, labels=None if labels is None else labels[which == wanted])

    return part(False), part(True)


def synthetic(model: ModelProto, count: int = 4) -> Iterator[Data]:
    """Generated inputs from a fixed seed, one size after another; a caller takes the first that runs."""
    inputs = model_inputs(model)
    limits = _index_limits(model)
    for free in ((1, 16), (1, 224), (1, 64), (1, 320), (1, 32), (2, 128), (1, 512), (1, 1), (1, 48)):
        random = np.random.default_rng(SEED)
        feeds = [{i.name: _generate(i, free, limits, random) for i in inputs} for _ in range(count)]
        yield Data(feeds=tuple(feeds), labels=None, origin="noise", name="rows of noise")


def _generate(
    wanted: Input, free: tuple[int, int], limits: Mapping[str, int], random: np.random.Generator
) -> FloatArray:
    """The first unknown size of an input is its batch, free[0]; others are free[1], channels of images 3."""
    dims = wanted.dims or ()
    shape: list[int] = []
    batches = {next((d for d in dims if not isinstance(d, int)), "")} - {""}
    for axis, size in enumerate(dims):
        if isinstance(size, int):
            shape.append(size)
        elif size in batches or (all(isinstance(d, int) for d in dims[:axis]) and axis < 2):
            shape.append(free[0])
        else:
            shape.append(3 if len(dims) == 4 and axis == 1 else free[1])
    if wanted.dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if np.issubdtype(wanted.dtype, np.integer):
        if "mask" in wanted.name.lower():
            return np.ones(shape, wanted.dtype)
        if not shape:
            return np.array(_scalar(wanted.name), wanted.dtype)
        high = limits.get(wanted.name, 2)
        return random.integers(0, max(high, 1), shape).astype(wanted.dtype)
    return random.standard_normal(shape).astype(wanted.dtype)


def _scalar(name: str) -> int:
    """A number such as a sampling rate must be one that the model knows."""
    return 16000 if name.lower() in ("sr", "sample_rate", "sampling_rate") else 1


def _index_limits(model: ModelProto) -> dict[str, int]:
    """For each integer input that ends up as indices of a Gather: the size of the table it looks into."""
    sizes: dict[str, int] = {}
    for scope in walk(model):
        for tensor in getattr(scope.body, "initializer", ()):
            sizes[tensor.name] = tensor.dims[0] if tensor.dims else 1
        for node in scope.body.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                sizes[node.output[0]] = next(iter(node.attribute[0].t.dims), 1)
    origin = {value.name: value.name for value in model.graph.input}
    limits: dict[str, int] = {}
    for scope in walk(model):
        for node in scope.body.node:
            first = node.input[0] if node.input else ""
            if first in origin and node.op_type in _KEEPS_INTEGERS:
                for output in node.output:
                    origin[output] = origin[first]
            looks_up = node.op_type in ("Gather", "GatherND") and len(node.input) > 1 and node.input[1] in origin
            if looks_up and first in sizes:
                name = origin[node.input[1]]
                limits[name] = min(limits.get(name, 1 << 31), sizes[first])
            if node.op_type == "OneHot" and first in origin:
                limits.setdefault(origin[first], 2)
    return limits


_KEEPS_INTEGERS = frozenset(
    {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"}
)
