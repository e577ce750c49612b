"""A model and where it is to be rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx import ModelProto

from mixquant_onnx.export.activations import round_dynamically, round_values
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.planning.layer_times import saved_nanoseconds, total_saved
from mixquant_onnx.quantization.activations.placement import Placement, RoundedValue, place
from mixquant_onnx.quantization.activations.ranges import ActivationGrid
from mixquant_onnx.quantization.activations.value_graph import ValueGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounding:
    """A model and where it is to be rounded.

    Attributes:
        model: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.
        elements: Elements of these values for one sample, where they are known.
        grids: Their grids; None where each run has its own.
        unusable: Values that have no grid.
    """

    model: ModelProto
    sites: Mapping[str, LocatedWeight]
    placement: Placement
    elements: Mapping[str, float]
    grids: Mapping[str, ActivationGrid] | None
    unusable: frozenset[str] = frozenset()

    @cached_property
    def graph(self) -> ValueGraph:
        """The model with the producers and readers of its values."""
        return ValueGraph(self.model)

    def without(self, layers: set[str]) -> Placement:
        """Where it is rounded if more layers stay in float.

        Args:
            layers: Names of weights.

        Returns:
            The placement.
        """
        return place(self.model, self.sites, layers, unusable=self.unusable)

    def rounded(self, values: tuple[RoundedValue, ...]) -> ModelProto:
        """A copy that rounds some values.

        Args:
            values: The values.

        Returns:
            The copy.
        """
        copy = ModelProto()
        copy.CopyFrom(self.model)
        if self.grids is None:
            round_dynamically(copy, values)
        else:
            round_values(copy, values, self.grids)
        return copy

    def saved(self) -> dict[str, float]:
        """Nanoseconds that each layer saves, conversions aside, by the name of its weight."""
        return saved_nanoseconds(self.graph, self.sites, self.placement, self.elements)

    def total_saved(self, layers: set[str]) -> float:
        """Nanoseconds that are saved if some layers stay in float.

        Args:
            layers: Names of weights.

        Returns:
            What all others save, without what conversions take.
        """
        return total_saved(self.graph, self.sites, self.without(layers), self.elements)
