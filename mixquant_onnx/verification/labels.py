"""Top-1 accuracy: decisions of a model against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mixquant_onnx.data.noise import Data
from mixquant_onnx.errors import DataError
from mixquant_onnx.numerics.outputs import Array, Outputs, arrays_of, is_numbers
from mixquant_onnx.verification.statistics import Share, share_of


def accuracy(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int], labels: Array | None) -> Share | None:
    """Top-1 accuracy of a model.

    Args:
        outputs: Outputs of the model, for each batch in order.
        names: Names of the outputs, in order.
        axes: Class axis, by name of the output (`classes.class_axes`).
        labels: Class of each sample, [N].

    Returns:
        The share with its interval; None without labels, or without an output of one decision per sample.
    """
    if labels is None:
        return None
    found = decisions(outputs, names, axes)
    if found is None or len(found) != len(labels):
        return None
    return share_of([int(hit) for hit in found == labels], [1] * len(labels))


def float_accuracy(reference: Outputs, data: Data, names: Sequence[str], axes: Mapping[str, int]) -> Share | None:
    """Top-1 accuracy of the float model.

    Args:
        reference: Its outputs, for each batch in order.
        data: The samples, with labels or without.
        names: Names of the outputs, in order.
        axes: Class axis, by name of the output (`classes.class_axes`).

    Returns:
        The share with its interval; None without labels, or without an output of one decision per sample.

    Raises:
        DataError: There is not one label for each sample.
    """
    if data.labels is None:
        return None
    found = decisions(reference, names, axes)
    if found is not None and len(data.labels) != len(found):
        raise DataError(f"{len(data.labels)} labels for {len(found)} rows of data; give one label a row")
    return accuracy(reference, names, axes, data.labels)


def decisions(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int]) -> Array | None:
    """The class of each sample.

    Args:
        outputs: Outputs of the model, for each batch in order.
        names: Names of the outputs, in order.
        axes: Class axis, by name of the output (`classes.class_axes`).

    Returns:
        [N], from the first output [N, classes], else from the first output of integers [N]; None where there is
        neither.
    """
    feeds = [arrays_of(feed, names) for feed in outputs]
    by_axis = [name for name, axis in axes.items() if axis == 1]
    others = [name for name in feeds[0] if name not in by_axis]
    for name in [*by_axis, *others]:
        arrays = [feed[name] for feed in feeds if name in feed]
        if len(arrays) == len(feeds):
            rows = [_classes(a) for a in arrays]
            found = [r for r in rows if r is not None]
            if len(found) == len(rows):
                return np.concatenate(found)
    return None


def _classes(array: Array) -> Array | None:
    if is_numbers(array):
        return array.argmax(1) if array.ndim == 2 and array.shape[1] > 1 else None
    single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return array.reshape(-1) if single and array.dtype.kind in "iu" else None
