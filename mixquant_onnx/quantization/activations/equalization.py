"""Channels of an activation brought to like ranges, and the rows of the weights that it meets scaled in return.

Source:
    Xiao et al. 2022, SmoothQuant, arXiv 2211.10438, equation 4. There the factors go into the layer before; where there
    is none that can take them, a product with a constant does it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mixquant_onnx.model.operators import attributes
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.quantization.activations.placement import Placement

STRENGTHS = (0.5, 0.75)
"""Exponents that are tried, besides none: 0 leaves activations as they are, 1 makes all channels alike."""

_LEAST = 1e-3
"""Least peak of a channel, as a share of the largest: channels that hardly occur are not magnified without bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Equalizable:
    """A value that only products with weights read.

    Attributes:
        value: Its name.
        weights: The weights by name, and the axis along which each meets the value's channels.
    """

    value: str
    weights: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Equalization:
    """Factors of the channels of a value.

    Attributes:
        where: The value and its weights.
        factors: [K], by which channels are divided and rows of the weights multiplied; positive.
    """

    where: Equalizable
    factors: NDArray[np.float32]


def equalizable(model: ModelProto, sites: Mapping[str, LocatedWeight], placement: Placement) -> list[Equalizable]:
    """The values whose channels can be brought to like ranges.

    Args:
        model: The float model.
        sites: Its weights by name.
        placement: Where it is rounded.

    Returns:
        Values that are rounded for products alone, in the order of the graph.
    """
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    found = []
    for value in placement.values:
        readers = [] if value.readers is None else sorted(value.readers)
        layers = {reader: placement.layers.get(reader) for reader in readers}
        weights: dict[str, int] = {}
        for reader, name in layers.items():
            if name is not None and nodes[reader].op_type in ("MatMul", "Gemm") and len(sites[name].site.shape) == 2:
                weights[name] = 1 if attributes(nodes[reader]).get("transB", 0) else 0
        of_these = {reader.node.output[0] for name in weights for reader in sites[name].readers}
        if weights and None not in layers.values() and of_these == set(readers):
            found.append(Equalizable(value=value.name, weights=weights))
    return found


def factors_of(
    where: Equalizable, peaks: NDArray[np.float32], sites: Mapping[str, LocatedWeight], strength: float
) -> Equalization | None:
    """The factors of a value.

    Args:
        where: The value and its weights.
        peaks: [K], the largest magnitude of each channel.
        sites: The weights by name.
        strength: From 0 to 1.

    Returns:
        The factors, with a geometric mean of 1; None where shapes do not fit or nothing is to be done.

    Source:
        SmoothQuant, equation 4: max|x|^a / max|w|^(1 - a).
    """
    if not np.isfinite(peaks).all() or peaks.max(initial=0) == 0:
        return None
    rows = [np.abs(weight_values(sites[name])).max(axis=1 - axis) for name, axis in where.weights.items()]
    if any(row.shape != peaks.shape for row in rows):
        return None
    weights = np.max(np.stack(rows), axis=0)
    logs = strength * _log(peaks) - (1 - strength) * _log(weights)
    return Equalization(where=where, factors=np.exp(logs - logs.mean()).astype(np.float32))


def _log(values: NDArray[np.float32]) -> NDArray[np.float64]:
    largest = float(values.max()) or 1.0
    return np.asarray(np.log(np.maximum(values.astype(np.float64), _LEAST * largest)))


def all_factors(
    places: Sequence[Equalizable],
    peaks: Mapping[str, NDArray[np.float32] | None],
    sites: Mapping[str, LocatedWeight],
    strength: float,
) -> list[Equalization]:
    """The factors of all values of one strength.

    Args:
        places: The values.
        peaks: The largest magnitudes by value.
        sites: The weights by name.
        strength: From 0 to 1.

    Returns:
        Those that have any.
    """
    made = []
    for place in places:
        found = peaks[place.value]
        one = None if found is None else factors_of(place, found, sites, strength)
        made += [] if one is None else [one]
    return made
