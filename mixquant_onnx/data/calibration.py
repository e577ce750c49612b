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
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import Feed, RuntimeFailure

ROWS = 8192
"""Samples of a weight's input over all feeds, at most; fewer where the rows are short."""

_ROWS_A_COLUMN = 6
"""Samples wanted for each input of a weight."""

_FEWEST_ROWS = 2048
"""Samples wanted of a weight with few inputs, or where means and variances are enough."""

_MOST_ROWS = 512
"""Rows of data that are run, in feeds evenly spaced."""

_HELD = 8
"""Every how many feeds one is held back, where that is asked for."""

_FEWEST_LEARNED = 16
"""Rows that must be left to learn from."""

_PLACES = 16
"""Inputs read in one run, so that not all activations of a model are in memory at once."""

PROXY_SAMPLE_WEIGHT = 0.25
"""As how many independent samples one of a proxy input counts. Of 1, 1/4, 1/16 and 1/64 it does best on ResNet-20,
MobileNetV2 and EfficientNet-Lite0 (docs/data_free.md); cross-validation on halves of the proxies takes twice as
long and gains nothing."""

WIDEST_OF_PROXIES = 2304
"""Inputs of a weight beyond which proxies give means and variances alone: some 2,000 effective samples say little of
more directions, and the solve takes their cube (4608 inputs: 8 times 2304)."""

Values = Mapping[Place, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ActivationStream:
    """Inputs of weights in one model, read in the order of the graph. `names`: of each place in the main graph."""

    executor: IncrementalExecutor
    names: Mapping[Place, str]

    def fork(self) -> ActivationStream:
        """A second stream at the same place; neither moves the other."""
        return replace(self, executor=self.executor.fork())

    def values(self, places: Sequence[Place]) -> Iterator[Values]:
        """For each feed the values at `places`. Raises RuntimeFailure."""
        for found in self.executor.values([self.names[place] for place in places]):
            yield {place: found[self.names[place]] for place in places}

    def advance(self, places: Sequence[Place]) -> None:
        """Move past `places` without reading them."""
        self.executor.advance([self.names[place] for place in places])


class Calibration:
    """Statistics of the inputs of a model's weights.

    Args:
        model: The float model; never changed.
        sites: The weights by name.
        data: What the model is run on.
        hold_back: Keep some rows out of learning, to judge by, if `data` can be cut (its `axes` say where).

    Attributes:
        order: Names of the weights in the order of the graph.
        features: Where the input of each weight is; weights whose input cannot be read have none.
        feeds: All that is run; the first `learned` are learned from and the others judge.
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
        """Whether some feeds are kept to judge by."""
        return self.learned < len(self.feeds)

    def stages(self) -> list[list[str]]:
        """Names of all weights in the order of the graph, those that read the same value together."""
        groups: dict[Place | str, list[str]] = {}
        for name in self.order:
            feature = self.features.get(name)
            groups.setdefault(feature.place if feature else name, []).append(name)
        return list(groups.values())

    def moments(self, names: Sequence[str], every_feed: bool = True) -> dict[str, Moments]:
        """Mean and variance of the inputs of `names`.

        Args:
            names: Weights.
            every_feed: Of all feeds; else of those to learn from alone.

        Returns:
            By name, without weights whose input cannot be read; empty where the model does not run.
        """
        every = self._all(names, False, every_feed)
        found = {name: one for name, one in every.items() if isinstance(one, Moments)}
        return {name: one.of_generated_inputs() for name, one in found.items()} if self._noise else found

    def second_moments(self, names: Sequence[str]) -> dict[str, SecondMoments]:
        """Second moments in the float model, as `moments` does."""
        return _full(self._all(names, True))

    def stream(self, model: ModelProto) -> ActivationStream:
        """The inputs of all weights in `model`: the calibration's own, perhaps with other weights.

        Edits `model` so that values inside of branches are given out.
        """
        places = list(dict.fromkeys(feature.place for feature in self.features.values()))
        names = dict(zip(places, expose(model, places), strict=True))
        inside = frozenset(name for place, name in names.items() if place[0])
        executor = IncrementalExecutor(model, list(names.values()), self.feeds, inside)
        return ActivationStream(executor=executor, names=names)

    def float_stream(self) -> ActivationStream:
        """The inputs of all weights in the float model."""
        if all(not feature.place[0] for feature in self.features.values()):
            return self.stream(self._model)
        copy = ModelProto()
        copy.CopyFrom(self._model)
        return self.stream(copy)

    def collect(
        self, names: Sequence[str], reference: ActivationStream, current: ActivationStream, every_feed: bool = True
    ) -> dict[str, SecondMoments]:
        """Second moments of the inputs of weights that read the same value; moves both streams there.

        Args:
            names: The weights.
            reference: Stream of the float model.
            current: Stream of the model whose earlier weights are quantized.
            every_feed: Of all feeds; else of those to learn from alone (all are run).

        Returns:
            By name, with cross moments of `reference`; without weights whose input cannot be read or is too wide.
        """
        wanted = [name for name in names if name in self.features and not self.is_too_wide(name)]
        return _full(self._sums(wanted, reference, current, True, self._count(every_feed)))

    def is_too_wide(self, name: str) -> bool:
        """Whether a weight has more inputs than the samples of proxies can tell the second moments of."""
        feature = self.features.get(name)
        return self._proxy and feature is not None and feature.width > WIDEST_OF_PROXIES

    def _count(self, every_feed: bool) -> int:
        return len(self.feeds) if every_feed else self.learned

    def advance(self, names: Sequence[str], stream: ActivationStream) -> None:
        """Move `stream` past the inputs of `names`, as `collect` would."""
        stream.advance(list(dict.fromkeys(self.features[name].place for name in names if name in self.features)))

    def _all(self, names: Sequence[str], full: bool, every_feed: bool = True) -> dict[str, SecondMoments | Moments]:
        asked = set(names)
        known = [name for name in self.features if name in asked]
        own = self.float_stream()
        result: dict[str, SecondMoments | Moments] = {}
        for first in range(0, len(known), _PLACES):
            result.update(self._sums(known[first : first + _PLACES], own, None, full, self._count(every_feed)))
        return result

    def _sums(
        self, names: Sequence[str], own: ActivationStream, other: ActivationStream | None, full: bool, feeds: int
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
        return {name: self._weighted(one) for name, one in usable.items()}

    def _weighted(self, found: SecondMoments | Moments) -> SecondMoments | Moments:
        """Samples of proxy inputs count less."""
        if self._proxy and isinstance(found, SecondMoments):
            return replace(found, sample_weight=PROXY_SAMPLE_WEIGHT)
        return found

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
    """In two feeds at least, where they can be cut: the shrinkage is cross-validated between halves."""
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
