"""The outputs of a model as plain arrays: tensors, and the contents of maps and sequences.

ONNX Runtime returns a map as a dictionary and a sequence as a list (ONNX-ML ZipMap gives a list of dictionaries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = Sequence[Sequence[Any]]
"""Outputs of a model: for each batch, its outputs in order."""


def arrays_of(outputs: Sequence[Any], names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays in the outputs of one batch, by the name of the output.

    Args:
        outputs: Outputs in order, as ONNX Runtime returns them.
        names: Their names; None for their positions.

    Returns:
        Arrays by name. Maps with numeric values make an array [rows, keys] in the order of their keys. Tensors of a
        sequence are `name[0]`, `name[1]` and so on. Absent optional outputs and empty values are left out.
    """
    found: dict[str, Array] = {}
    for position, value in enumerate(outputs):
        _put(found, str(position) if names is None else names[position], value)
    return found


def _put(found: dict[str, Array], name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, Mapping) for row in value):
        found[name] = _table(value)
    elif isinstance(value, (list, tuple)) and value and all(np.ndim(item) == 0 for item in value):
        found[name] = np.asarray(value)
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _put(found, f"{name}[{position}]", item)
    elif value is not None:
        found[name] = np.asarray(value)


def _table(rows: Sequence[Mapping[Any, Any]]) -> Array:
    keys = sorted({key for row in rows for key in row}, key=lambda key: (isinstance(key, str), key))
    return np.array([[row.get(key, 0.0) for key in keys] for row in rows])


def is_numbers(array: Array) -> bool:
    """Whether an array is compared as numbers.

    Args:
        array: An output.

    Returns:
        True for floats, and for integers of 8 or 16 bits, which are images or codes.
    """
    return bool(np.issubdtype(array.dtype, np.floating)) or array.dtype.name in _SMALL or array.dtype.name == "bfloat16"


_SMALL = frozenset({"int8", "uint8", "int16", "uint16"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pair:
    """One output of two models over all batches.

    Attributes:
        name: Name of the output.
        reference: Its value for each batch, from the float model.
        other: The value of the other model; None where the output is missing.
    """

    name: str
    reference: tuple[Array, ...]
    other: tuple[Array | None, ...]

    @property
    def numbers(self) -> bool:
        """Whether the output is compared as numbers (`is_numbers`)."""
        return is_numbers(self.reference[0])

    @property
    def same_shape(self) -> tuple[tuple[Array, Array], ...]:
        """(reference, other) of the batches where both have the same shape."""
        both = zip(self.reference, self.other, strict=True)
        return tuple((a, b) for a, b in both if b is not None and a.shape == b.shape)

    @property
    def changed_shapes(self) -> int:
        """Number of batches in which the shape differs, or the output is missing in one of the two."""
        return len(self.reference) - len(self.same_shape)


def pairs_of(reference: Outputs, other: Outputs, names: Sequence[str] | None = None) -> list[Pair]:
    """Match the outputs of two models on the same batches.

    Args:
        reference: Outputs of the float model.
        other: Outputs of the other model.
        names: Names of the outputs; None for their positions.

    Returns:
        One pair per output, those of `reference` first.
    """
    wanted, got = ([arrays_of(feed, names) for feed in side] for side in (reference, other))
    order = dict.fromkeys(name for side in (wanted, got) for feed in side for name in feed)
    made = []
    for name in order:
        kept = [(a.get(name), b.get(name)) for a, b in zip(wanted, got, strict=True) if name in a or name in b]
        first = [_or_empty(a, b) for a, b in kept]
        second = [b if a is not None else None for a, b in kept]
        made.append(Pair(name=name, reference=tuple(first), other=tuple(second)))
    return made


def _or_empty(array: Array | None, like: Array | None) -> Array:
    if array is not None:
        return array
    return np.zeros(0, np.float32 if like is None else like.dtype)
