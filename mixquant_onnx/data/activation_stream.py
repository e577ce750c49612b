"""Inputs of weights in one model, read in the order of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mixquant_onnx.model.taps import Place
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.incremental import IncrementalExecutor

Values = Mapping[Place, FloatArray]
"""Values of one batch by place."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActivationStream:
    """Inputs of weights in one model, read in the order of the graph.

    Attributes:
        executor: Computes the values.
        names: Name in the main graph of each place.
    """

    executor: IncrementalExecutor
    names: Mapping[Place, str]

    def fork(self) -> ActivationStream:
        """A second stream at the same position; advancing one does not affect the other."""
        return replace(self, executor=self.executor.fork())

    def values(self, places: Sequence[Place]) -> Iterator[Values]:
        """Compute the values at some places, and move there.

        Args:
            places: Places behind those of earlier calls.

        Yields:
            The values of each batch.

        Raises:
            RuntimeFailure: ONNX Runtime does not run the model.
        """
        for found in self.executor.values([self.names[place] for place in places]):
            yield {place: found[self.names[place]] for place in places}

    def outputs(self, names: Sequence[str]) -> list[list[FloatArray]]:
        """Values of the main graph from here on; the stream stays where it is.

        Args:
            names: Some of the outputs that the stream was made for.

        Returns:
            The values in order, for each batch.

        Raises:
            RuntimeFailure: ONNX Runtime does not run the rest of the model.
        """
        return [[found[name] for name in names] for found in self.executor.fork().values(names)]

    def advance(self, places: Sequence[Place]) -> None:
        """Move past `places` without reading them."""
        self.executor.advance([self.names[place] for place in places])
