"""Statistics of values inside a model, from one pass over samples, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched, rows_of, thinned
from mixquant_onnx.errors import DataError
from mixquant_onnx.model.taps import with_outputs
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.quantization.activations.histogram import Histogram
from mixquant_onnx.runtime.session import RuntimeFailure, Session

_MOST_ROWS = 512
"""Most samples whose values are counted, in evenly spaced batches: bounds the time."""


@dataclass(kw_only=True, slots=True, eq=False)
class Observed:
    """What was seen of a value.

    Attributes:
        histogram: All its elements.
        samples: On how many samples.
        peaks: The largest magnitude in each channel of its last axis; None where that was not asked for.
    """

    histogram: Histogram
    samples: int = 0
    peaks: NDArray[np.float32] | None = None

    def merge(self, other: Observed) -> None:
        """Add what was seen on other samples.

        Args:
            other: Of the same value.
        """
        self.histogram.merge(other.histogram)
        self.samples += other.samples
        if self.peaks is not None and other.peaks is not None:
            self.peaks = np.maximum(self.peaks, other.peaks)


def observe(
    model: ModelProto,
    names: Sequence[str],
    data: Data,
    by_channel: Collection[str] = (),
    floors: Mapping[str, float] | None = None,
) -> dict[str, Observed]:
    """Run a model and look at values of its main graph.

    Args:
        model: The model.
        names: The values.
        data: The samples.
        by_channel: Values of which peaks are wanted too.
        floors: Lower elements of these values count as this.

    Returns:
        Statistics by name.

    Raises:
        DataError: The model does not run on `data`.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {value.name for value in model.graph.input} | set(constants)
    inside = [name for name in names if name not in given]
    fixed = {name: values_of(constants[name]) for name in names if name in constants}
    found = {name: Observed(histogram=Histogram()) for name in names}
    try:
        session = Session(with_outputs(model, inside))
        for feed in thinned(batched(data), _MOST_ROWS).feeds:
            rows = rows_of(feed, data.axes)
            values = {**fixed, **feed}
            values |= dict(zip(inside, session.run(feed, inside), strict=True)) if inside else {}
            for name, one in found.items():
                value = np.asarray(values[name])
                if floors and name in floors:
                    value = np.maximum(value, np.float32(floors[name]))
                one.histogram.add(value)
                one.samples += rows
                if name in by_channel and value.size:
                    peaks = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0).astype(np.float32)
                    one.peaks = peaks if one.peaks is None else np.maximum(one.peaks, peaks)
    except RuntimeFailure as failure:
        raise DataError(f"the float model does not run on this data: {failure}") from failure
    return found
