"""Second moments of what meets each weight, from runs of the float model and of the one being quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched, thinned
from mixquant_onnx.data.moments import Accumulator, Moments, SecondMoments
from mixquant_onnx.data.split import held_out
from mixquant_onnx.model.layer_inputs import Feature, feature_of, reading_order
from mixquant_onnx.model.taps import Place, expose
from mixquant_onnx.model.weights import LocatedSite
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.incremental import Activations
from mixquant_onnx.runtime.session import Feed, RuntimeFailure

ROWS = 8192
"""Samples of a weight's input over all feeds, at most; fewer where the rows are short."""

_ROWS_A_COLUMN = 6
_FEWEST_ROWS = 2048

_MOST_ROWS = 512
"""Rows of data that are run, in batches evenly spaced."""

_HELD = 8
"""Every how many batches one is held back, where that is asked for."""

_FEWEST_LEARNED = 16
"""Rows that must be left to learn from."""

_PLACES = 16
"""Inputs watched in one run, so that not all activations of a model are in memory at once."""


PROXY_TRUST = 0.25
"""As how many samples one of a proxy input counts. Of 1, 1/4, 1/16 and 1/64 it does best on ResNet-20, MobileNetV2 and
EfficientNet-Lite0 (docs/data_free.md); to find it out on halves of the proxies takes twice as long, for nothing."""

WIDEST_OF_PROXIES = 2304
"""Inputs of a weight beyond which proxies give means and variances alone: some 2,000 trusted samples say little of more
directions, and the solve takes their cube (4608 inputs: 8 times 2304)."""

Values = Mapping[Place, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Watched:
    """Inputs of weights in one model, by their names in its main graph."""

    activations: Activations
    names: Mapping[Place, str]

    def fork(self) -> Watched:
        """One that goes on from here by itself."""
        return replace(self, activations=self.activations.fork())

    def values(self, places: Sequence[Place]) -> Iterator[Values]:
        """For each feed. Raises RuntimeFailure."""
        for found in self.activations.values([self.names[place] for place in places]):
            yield {place: found[self.names[place]] for place in places}


class Calibration:
    """Reads the inputs of the sites of `model` on `data`. Never changes `model`.

    `feeds`: all that is run, of them the first `learned` to learn from and the others to judge by. With `hold_back`
    there are such, if `data` can be cut (its `axes` say where).
    """

    def __init__(
        self, model: ModelProto, sites: Mapping[str, LocatedSite], data: Data, hold_back: bool = False
    ) -> None:
        self._model = model
        self._noise = data.origin == "noise"
        self._proxy = data.origin == "proxy"
        found = {name: feature_of(located) for name, located in sites.items()}
        self.order = reading_order(model, sites)
        self.features: dict[str, Feature] = {name: f for name in self.order if (f := found[name]) is not None}
        learned, held = _parts(data) if hold_back else (_batches(data), ())
        self.feeds: tuple[Feed, ...] = (*learned, *held)
        self.learned = len(learned)

    @property
    def holds_back(self) -> bool:
        return self.learned < len(self.feeds)

    def stages(self) -> list[list[str]]:
        """All sites in the order of the graph, those that read the same value together; without a feature alone."""
        groups: dict[Place | str, list[str]] = {}
        for name in self.order:
            feature = self.features.get(name)
            groups.setdefault(feature.place if feature else name, []).append(name)
        return list(groups.values())

    def moments(self, names: Sequence[str], every_feed: bool = True) -> dict[str, Moments]:
        """Mean and variance for those of `names` that can be watched; empty where the model does not run.

        Without `every_feed`, of the feeds to learn from alone.
        """
        all_found = self._all(names, False, every_feed)
        found = {name: one for name, one in all_found.items() if isinstance(one, Moments)}
        return {name: one.of_generated_inputs() for name, one in found.items()} if self._noise else found

    def second_moments(self, names: Sequence[str]) -> dict[str, SecondMoments]:
        """For those of `names` that can be watched. Empty where the model does not run."""
        return _full(self._all(names, True))

    def watched(self, model: ModelProto) -> Watched:
        """The inputs of all sites in `model`: this one, perhaps with other weights. Edits it to see into branches."""
        places = list(dict.fromkeys(feature.place for feature in self.features.values()))
        names = dict(zip(places, expose(model, places), strict=True))
        inside = frozenset(name for place, name in names.items() if place[0])
        return Watched(activations=Activations(model, list(names.values()), self.feeds, inside), names=names)

    def float_inputs(self) -> Watched:
        """The inputs of all sites in the model itself."""
        if all(not feature.place[0] for feature in self.features.values()):
            return self.watched(self._model)
        copy = ModelProto()
        copy.CopyFrom(self._model)
        return self.watched(copy)

    def in_turn(
        self, names: Sequence[str], own: Watched, current: Watched, every_feed: bool = True
    ) -> dict[str, SecondMoments]:
        """For those of the stage `names` that can be watched: moments of `current`, and cross moments with `own`.

        Without `every_feed`, of the feeds to learn from alone.
        """
        wanted = [name for name in names if name in self.features and not self.is_too_wide(name)]
        return _full(self._collect(wanted, own, current, True, self._count(every_feed)))

    def is_too_wide(self, name: str) -> bool:
        """Whether a weight has more inputs than the few samples of proxies tell the second moments of."""
        feature = self.features.get(name)
        return self._proxy and feature is not None and feature.width > WIDEST_OF_PROXIES

    def _count(self, every_feed: bool) -> int:
        return len(self.feeds) if every_feed else self.learned

    def pass_by(self, names: Sequence[str], watched: Watched) -> None:
        """Goes on in `watched` as `in_turn` does, for those of `names` that can be watched."""
        places = list(dict.fromkeys(self.features[name].place for name in names if name in self.features))
        watched.activations.pass_by([watched.names[place] for place in places])

    def _all(self, names: Sequence[str], full: bool, every_feed: bool = True) -> dict[str, SecondMoments | Moments]:
        asked = set(names)
        watched = [name for name in self.features if name in asked]
        own = self.float_inputs()
        result: dict[str, SecondMoments | Moments] = {}
        for first in range(0, len(watched), _PLACES):
            result.update(self._collect(watched[first : first + _PLACES], own, None, full, self._count(every_feed)))
        return result

    def _collect(
        self, names: Sequence[str], own: Watched, other: Watched | None, full: bool, feeds: int
    ) -> dict[str, SecondMoments | Moments]:
        """Of the first `feeds` feeds; all are run."""
        places = list(dict.fromkeys(self.features[name].place for name in names))
        if not places:
            return {}
        sums = {name: Accumulator(full, other is not None and not self._proxy) for name in names}
        try:
            references = repeat(None, len(self.feeds)) if other is None else own.values(places)
            for seed, (values, reference) in enumerate(zip((other or own).values(places), references, strict=True)):
                if seed < feeds:
                    self._add(sums, values, reference, seed, full)
        except RuntimeFailure:
            return {}
        found = {name: total.result() for name, total in sums.items()}
        usable = {name: one for name, one in found.items() if one is not None}
        return {name: self._trusted(one) for name, one in usable.items()}

    def _trusted(self, moments: SecondMoments | Moments) -> SecondMoments | Moments:
        """Those of proxy inputs count less."""
        return replace(moments, trust=PROXY_TRUST) if self._proxy and isinstance(moments, SecondMoments) else moments

    def _add(
        self, sums: Mapping[str, Accumulator], values: Values, reference: Values | None, seed: int, full: bool
    ) -> None:
        for name, total in sums.items():
            feature = self.features[name]
            most = min(ROWS, max(_FEWEST_ROWS, _ROWS_A_COLUMN * feature.width)) if full else _FEWEST_ROWS
            count = -(-most // len(self.feeds))
            rows = feature.rows(values[feature.place], count, seed)
            if rows is not None:
                total.add(rows, None if reference is None else feature.rows(reference[feature.place], count, seed))


def _batches(data: Data) -> tuple[Feed, ...]:
    """In two batches at least, where they can be cut: one half tells how far the other is to be trusted."""
    parts = batched(data)
    if len(parts.feeds) == 1:
        parts = batched(data, max(1, -(-data.rows // 2)))
    return thinned(parts, _MOST_ROWS).feeds


def _parts(data: Data) -> tuple[tuple[Feed, ...], tuple[Feed, ...]]:
    """What to learn from and what to judge by; all and nothing where `data` is not to be cut, or is little."""
    learned, held = held_out(data, _HELD)
    few = len(learned.feeds) + len(held.feeds) < _HELD or learned.rows < _FEWEST_LEARNED
    if few or held.rows * 2 * _HELD < learned.rows + held.rows:
        return _batches(data), ()
    return thinned(learned, _MOST_ROWS * (_HELD - 1) // _HELD).feeds, thinned(held, _MOST_ROWS // _HELD).feeds


def _full(found: Mapping[str, SecondMoments | Moments]) -> dict[str, SecondMoments]:
    return {name: one for name, one in found.items() if isinstance(one, SecondMoments)}
