"""Second moments of what meets each weight, from runs of the float model and of the one being quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import ModelProto

from mixquant_onnx.feeds import Data, batches, thinned
from mixquant_onnx.graph.inputs import Feature, feature_of
from mixquant_onnx.graph.sites import LocatedSite
from mixquant_onnx.graph.watch import Place, watch
from mixquant_onnx.rounding import Moments
from mixquant_onnx.runtime import Feed, RuntimeFailure, Session
from mixquant_onnx.second_moments import Accumulator, SecondMoments
from mixquant_onnx.types import FloatArray

ROWS = 8192
"""Samples of a weight's input over all feeds, at most; fewer where the rows are short."""

_ROWS_A_COLUMN = 6
_FEWEST_ROWS = 2048

_MOST_ROWS = 512
"""Rows of data that are run, in batches evenly spaced: each is run again for every layer."""

_PLACES = 16
"""Inputs watched in one run, so that not all activations of a model are in memory at once."""


class Calibration:
    """Reads the inputs of the sites of `model` on `data`. Never changes `model`."""

    def __init__(self, model: ModelProto, sites: Mapping[str, LocatedSite], data: Data) -> None:
        self._model = model
        found = {name: feature_of(located) for name, located in sites.items()}
        self.features: dict[str, Feature] = {name: f for name, f in found.items() if f is not None}
        self._feeds: tuple[Feed, ...] = thinned(batches(model, data), _MOST_ROWS)

    def stages(self, names: Sequence[str]) -> list[list[str]]:
        """`names` in order, those that read the same value together; sites without a feature alone."""
        groups: dict[Place | str, list[str]] = {}
        for name in names:
            feature = self.features.get(name)
            groups.setdefault(feature.place if feature else name, []).append(name)
        return list(groups.values())

    def moments(self, names: Sequence[str]) -> dict[str, Moments]:
        """Mean and variance for those of `names` that can be watched; empty where the model does not run."""
        found = self._all(names, None, False)
        return {name: one for name, one in found.items() if isinstance(one, Moments)}

    def second_moments(self, names: Sequence[str], current: ModelProto | None = None) -> dict[str, SecondMoments]:
        """For those of `names` that can be watched; with the cross moments against `current` where it is given.

        `current` is the model with some weights replaced. Empty where the model does not run.
        """
        found = self._all(names, current, True)
        return {name: one for name, one in found.items() if isinstance(one, SecondMoments)}

    def _all(self, names: Sequence[str], current: ModelProto | None, full: bool) -> dict[str, SecondMoments | Moments]:
        watched = [name for name in names if name in self.features]
        places = list(dict.fromkeys(self.features[name].place for name in watched))
        result: dict[str, SecondMoments | Moments] = {}
        for first in range(0, len(places), _PLACES):
            part = places[first : first + _PLACES]
            sums = {name: Accumulator(full) for name in watched if self.features[name].place in part}
            try:
                self._collect(part, sums, current, full)
            except RuntimeFailure:
                continue
            found = {name: total.result() for name, total in sums.items()}
            result.update({name: one for name, one in found.items() if one is not None})
        return result

    def _collect(
        self, places: list[Place], sums: Mapping[str, Accumulator], current: ModelProto | None, full: bool
    ) -> None:
        own = self._values(self._model, places)
        other = None if current is None else self._values(current, places)
        for seed, values in enumerate(own):
            changed = values if other is None else next(other)
            for name, total in sums.items():
                feature = self.features[name]
                most = min(ROWS, max(_FEWEST_ROWS, _ROWS_A_COLUMN * feature.width)) if full else _FEWEST_ROWS
                count = -(-most // len(self._feeds))
                rows = feature.rows(changed[feature.place], count, seed)
                if rows is None:
                    continue
                reference = None if other is None else feature.rows(values[feature.place], count, seed)
                total.add(rows, reference)

    def _values(self, model: ModelProto, places: list[Place]) -> Iterator[dict[Place, FloatArray]]:
        watched, names = watch(model, places)
        session = Session(watched)
        inputs = {value.name for value in watched.graph.input}
        for feed in self._feeds:
            values = session.run({k: v for k, v in feed.items() if k in inputs}, names)
            yield dict(zip(places, values, strict=True))
