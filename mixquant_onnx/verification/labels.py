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
        DataError: There is not one label for each sample, or one is none of the classes.
    """
    if data.labels is None:
        return None
    found = decisions(reference, names, axes)
    if found is not None and len(data.labels) != len(found):
        raise DataError(f"{len(data.labels)} labels for {len(found)} rows of data; give one label a row")
    check_classes_of(data.labels, class_count(reference, names, axes))
    return accuracy(reference, names, axes, data.labels)


def check_classes_of(labels: Array, classes: int | None) -> None:
    """Check that labels are classes of the model.

    Args:
        labels: Class of each sample, [N].
        classes: Number of classes; None where that is not known.

    Raises:
        DataError: One is not.
    """
    if classes is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        most = "" if len(wrong) == 1 else f", as are {len(wrong) - 1} others"
        raise DataError(
            f"label {labels[wrong[0]]} is none of the model's {classes} classes, which are 0 to {classes - 1}{most}; "
            f"give the number of the class in the model's output"
        )


def class_count(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int]) -> int | None:
    """Number of classes of the output that `decisions` takes.

    Args:
        outputs: Outputs of the model, for each batch in order.
        names: Names of the outputs, in order.
        axes: Class axis, by name of the output (`classes.class_axes`).

    Returns:
        Its columns; None where there is no such output, or it holds labels.
    """
    arrays = _judged(outputs, names, axes)
    return arrays[0].shape[1] if arrays and is_numbers(arrays[0]) else None


def chance_words(float_accuracy: Share | None, classes: int | None) -> tuple[str, ...]:
    """A warning where the float model's accuracy is no better than chance, as labels of other rows would make it.

    Args:
        float_accuracy: Top-1 accuracy of the float model; None without labels.
        classes: Number of classes; None where that is not known.

    Returns:
        A line, or none.
    """
    if float_accuracy is None or classes is None:
        return ()
    end = float_accuracy.value if float_accuracy.few else float_accuracy.low
    if end > 1 / classes:
        return ()
    told = f"{float_accuracy.hits} of {float_accuracy.count} labels right"
    return (f"float gets {told}, no better than chance with {classes} classes: check that labels belong to these rows",)


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
    arrays = _judged(outputs, names, axes)
    return np.concatenate([r for r in map(_classes, arrays) if r is not None]) if arrays else None


def _judged(outputs: Outputs, names: Sequence[str], axes: Mapping[str, int]) -> list[Array]:
    """The output that holds decisions, for each batch; empty where there is none."""
    feeds = [arrays_of(feed, names) for feed in outputs]
    by_axis = [name for name, axis in axes.items() if axis == 1]
    others = [name for name in feeds[0] if name not in by_axis]
    for name in [*by_axis, *others]:
        arrays = [feed[name] for feed in feeds if name in feed]
        if len(arrays) == len(feeds) and all(_classes(a) is not None for a in arrays):
            return arrays
    return []


def _classes(array: Array) -> Array | None:
    if is_numbers(array):
        return array.argmax(1) if array.ndim == 2 and array.shape[1] > 1 else None
    single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return array.reshape(-1) if single and array.dtype.kind in "iu" else None
