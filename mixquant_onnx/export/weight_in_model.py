"""A weight with everything that determines how it may be stored: its scheme, the options and the model around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx import ModelProto

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.integer_kernels import cannot_be_fused, dequantized_values, meets_dequantized
from mixquant_onnx.model.product_rows import one_row, shapes_of
from mixquant_onnx.model.shapes import Shape
from mixquant_onnx.model.weights import LocatedWeight, WeightTensor
from mixquant_onnx.numerics.scheme import Scheme


class ModelFacts:
    """Properties of a model's values, each computed on first use.

    Args:
        model: The model before any weight is replaced.
        sites: Its weights by name.
    """

    def __init__(self, model: ModelProto, sites: Mapping[str, LocatedWeight]) -> None:
        self._model, self._sites = model, sites

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of values by ONNX shape inference."""
        return shapes_of(self._model)

    @cached_property
    def elements(self) -> int:
        """Elements of all weights."""
        return sum(located.site.elements for located in self._sites.values())

    @cached_property
    def dequantized(self) -> frozenset[str]:
        """Values that come from a DequantizeLinear of the model."""
        return dequantized_values(self._model, ())

    @cached_property
    def dequantized_with_weights(self) -> frozenset[str]:
        """The same if every weight came from a DequantizeLinear."""
        return dequantized_values(self._model, [located.source.name for located in self._sites.values()])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightInModel:
    """A weight and its context, for encodings and targets.

    Attributes:
        located: The weight and its readers.
        scheme: How it is quantized.
        options: The user's options for the file.
        facts: Properties of the model.
    """

    located: LocatedWeight
    scheme: Scheme
    options: FormOptions
    facts: ModelFacts

    @property
    def site(self) -> WeightTensor:
        """The weight without its graph."""
        return self.located.site

    def sees_one_row(self) -> bool:
        """Whether every product with this weight has one row, by the model's shapes."""
        return one_row(self.located, self.facts.shapes)

    def meets_dequantized(self) -> bool:
        """Whether a product's other operand comes from a DequantizeLinear of the model."""
        return any(meets_dequantized(reader, self.facts.dequantized) for reader in self.located.readers)

    def breaks_dequantized(self) -> bool:
        """Whether ONNX Runtime would fuse a DequantizeLinear of this weight into a product that does not run."""
        return cannot_be_fused(self.located, self.scheme, self.facts.dequantized_with_weights)


def matmul_shape(site: WeightTensor) -> tuple[int, int]:
    """(K, N) of a two-dimensional weight, however it is stored.

    Args:
        site: The weight.

    Returns:
        Inputs and outputs of the product.
    """
    rows, columns = site.shape
    return (columns, rows) if site.layout.p == 1 else (rows, columns)
