"""Second moments of the input of each weight, from runs of the float model and of the partly quantized one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

from onnx import ModelProto

from mixquant_onnx.data.accumulator import Accumulator
from mixquant_onnx.data.activation_stream import ActivationStream, Values
from mixquant_onnx.data.dataset import Data, batched, thinned
from mixquant_onnx.data.moments import Moments, SecondMoments
from mixquant_onnx.data.split import held_out
from mixquant_onnx.model.layer_inputs import Feature, feature_of, reading_order
from mixquant_onnx.model.taps import Place, expose
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import Feed, RuntimeFailure

ROWS = 8192
"""Most samples of a weight's input over all batches: bounds the time for K x K products."""

_ROWS_A_COLUMN = 6
"""Samples wanted per input channel K of a weight, so that K x K second moments are well determined."""

_FEWEST_ROWS = 2048
"""Samples of a weight with few inputs, or where only means and variances are needed."""

_MOST_ROWS = 512
"""Most samples of data that are run, in evenly spaced batches: bounds the time of calibration."""

_HELD = 8
"""One of this many batches is held out, where that is asked for."""

_FEWEST_LEARNED = 16
"""Fewest samples that must be left for learning."""

_SUM_BYTES = 256 << 20
"""Bytes of sums that are held at once. Affects memory alone."""

_PLACES = 16
"""Inputs read in one run, so that not all activations of a model are in memory at once. Affects memory alone."""

PROXY_SAMPLE_WEIGHT = 0.25
"""Number of independent samples that one sample of a proxy input counts as. Of 1, 1/4, 1/16 and 1/64 it does best on
ResNet-20, MobileNetV2 and EfficientNet-Lite0 (docs/research/data_free.md); cross-validation on halves of the
proxies takes twice as long and gains nothing.
"""

WIDEST_OF_PROXIES = 2304
"""Widest input for which proxies give second moments; wider ones get means and variances alone. About 2,000 effective
samples do not determine more directions, and the solve is cubic in the width (4608 inputs: 8 times 2304).
"""


class Calibration:
    """Statistics of the inputs of a model's weights.

    Args:
        model: The float model; never changed.
        sites: The weights by name.
        data: The samples that the model is run on.
        hold_back: Hold some samples out of learning, for evaluation, if `data` can be split (`Data.axes`).

    Attributes:
        order: Names of the weights in the order of the graph, by what they meet.
        read_earlier: Names of weights that are also read before that, such as an embedding that is the head too.
        features: Location of the input of each weight; weights whose input cannot be read have none.
        feeds: All batches that are run; the first `learned` are for learning, the others for evaluation.
        learned: Number of batches for learning.
    """

    def __init__(
        self, model: ModelProto, sites: Mapping[str, LocatedWeight], data: Data, hold_back: bool = False
    ) -> None:
        self._model = model
        self._noise = data.origin == "noise"
        self._proxy = data.origin == "proxy"
        found = {name: feature_of(located) for name, located in sites.items()}
        self.order, self.read_earlier = reading_order(model, sites)
        self.features: dict[str, Feature] = {name: f for name in self.order if (f := found[name]) is not None}
        learned, held = _parts(data) if hold_back else (_batches(data), ())
        self.feeds: tuple[Feed, ...] = (*learned, *held)
        self.learned = len(learned)

    @property
    def holds_back(self) -> bool:
        """Whether some batches are held out."""
        return self.learned < len(self.feeds)

    def stages(self) -> list[list[str]]:
        """Names of all weights in the order of the graph, those that read the same value grouped.

        First come those that are read earlier than they meet inputs: what they change reaches all others.
        """
        groups: dict[Place | str, list[str]] = {name: [name] for name in self.order if name in self.read_earlier}
        for name in self.order:
            feature = self.features.get(name)
            if name not in self.read_earlier:
                groups.setdefault(feature.place if feature else name, []).append(name)
        return list(groups.values())

    def moments(self, names: Sequence[str], every_feed: bool = True) -> dict[str, Moments]:
        """Mean and variance of the inputs of weights in the float model.

        Args:
            names: The weights.
            every_feed: Whether to use all batches, or only those for learning.

        Returns:
            By name, without weights whose input cannot be read; empty where the model does not run.
        """
        every = self._all(names, every_feed)
        found = {name: one for name, one in every.items() if isinstance(one, Moments)}
        return {name: one.of_generated_inputs() for name, one in found.items()} if self._noise else found

    def observe(
        self, names: Sequence[str], full: frozenset[str]
    ) -> Iterator[tuple[str, SecondMoments | Moments | None]]:
        """Statistics of the inputs of weights in the float model, in one pass over the data.

        A weight whose input is too wide has means and variances alone. Only a few weights are held at a time.

        Args:
            names: The weights.
            full: Those of which second moments are wanted.

        Yields:
            Name and statistics, in the order of the graph: second moments with halves, or moments; None where the
            input cannot be read, or the model does not run.
        """
        asked, own = set(names), self.float_stream()
        yield from ((name, None) for name in self.order if name in asked and name not in self.features)
        known = [name for name in self.features if name in asked]
        for part in self._held_at_once(known):
            wide = frozenset(name for name in part if self.is_too_wide(name))
            found = self._sums(part, own, None, full - wide, len(self.feeds), split=True)
            yield from ((name, found.pop(name, None)) for name in part)

    def _held_at_once(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Weights in groups whose sums fit in `_SUM_BYTES`, and at most `_PLACES` a group."""
        group: list[str] = []
        taken = 0
        for name in names:
            feature = self.features[name]
            size = 3 * 8 * feature.groups * feature.width**2
            if group and (taken + size > _SUM_BYTES or len(group) == _PLACES):
                yield group
                group, taken = [], 0
            group.append(name)
            taken += size
        if group:
            yield group

    def stream(self, model: ModelProto, changes: bool = True, outputs: Sequence[str] = ()) -> ActivationStream:
        """A stream of the inputs of all weights.

        Args:
            model: The calibration's model, perhaps with other weights. Changed: values inside of branches become
                outputs.
            changes: Whether weights are replaced as the stream advances: those inside of branches are run again.
            outputs: Values of the main graph that will be asked for too.

        Returns:
            The stream, at the first input.
        """
        places = list(dict.fromkeys(feature.place for feature in self.features.values()))
        names = dict(zip(places, expose(model, places), strict=True))
        inside = frozenset(name for place, name in names.items() if place[0]) if changes else frozenset()
        executor = IncrementalExecutor(model, list(names.values()), self.feeds, inside, outputs)
        return ActivationStream(executor=executor, names=names)

    def float_stream(self) -> ActivationStream:
        """A stream of the inputs of all weights in the float model."""
        if all(not feature.place[0] for feature in self.features.values()):
            return self.stream(self._model, changes=False)
        copy = ModelProto()
        copy.CopyFrom(self._model)
        return self.stream(copy, changes=False)

    def collect(
        self, names: Sequence[str], reference: ActivationStream, current: ActivationStream, every_feed: bool = True,
        split: bool = True,
    ) -> dict[str, SecondMoments]:  # fmt: skip
        """Second moments of the inputs of weights that read the same value. Advances both streams.

        Args:
            names: The weights.
            reference: Stream of the float model.
            current: Stream of the model whose earlier weights are quantized.
            every_feed: Whether to use all batches, or only those for learning (all are run).
            split: Whether to collect halves too, by which shrinkage is chosen.

        Returns:
            By name, with cross moments of `reference`; without weights whose input cannot be read or is too wide.
            Weights that are read earlier have those of the float model, and no stream advances.
        """
        wanted = [name for name in names if name in self.features and not self.is_too_wide(name)]
        count = len(self.feeds) if every_feed else self.learned
        early = [name for name in wanted if name in self.read_earlier]
        sums = self._sums(early, self.float_stream(), None, frozenset(early), count, split) if early else {}
        later = [name for name in wanted if name not in self.read_earlier]
        return _full(sums | self._sums(later, reference, current, frozenset(later), count, split))

    def is_too_wide(self, name: str) -> bool:
        """Whether a weight has more inputs than samples of proxies can determine second moments of."""
        feature = self.features.get(name)
        return self._proxy and feature is not None and feature.width > WIDEST_OF_PROXIES

    def advance(self, names: Sequence[str], stream: ActivationStream) -> None:
        """Move a stream past the inputs of weights, as `collect` does.

        Args:
            names: The weights.
            stream: The stream.
        """
        known = [name for name in names if name in self.features and name not in self.read_earlier]
        stream.advance(list(dict.fromkeys(self.features[name].place for name in known)))

    def _all(self, names: Sequence[str], every_feed: bool) -> dict[str, SecondMoments | Moments]:
        asked = set(names)
        known = [name for name in self.features if name in asked]
        if not known:
            return {}
        own = self.float_stream()
        result: dict[str, SecondMoments | Moments] = {}
        for part in self._held_at_once(known):
            result.update(self._sums(part, own, None, frozenset(), len(self.feeds) if every_feed else self.learned))
        return result

    def _sums(
        self, names: Sequence[str], own: ActivationStream, other: ActivationStream | None, full: frozenset[str],
        feeds: int, split: bool = False,
    ) -> dict[str, SecondMoments | Moments]:  # fmt: skip
        """Statistics of the first `feeds` batches, all pairs of inputs for the weights in `full`; all are run."""
        places = list(dict.fromkeys(self.features[name].place for name in names))
        if not places:
            return {}
        # Weights with the same samples (as of query, key and value) share their statistics.
        first: dict[object, str] = {}
        alike = {n: first.setdefault((_identity(self.features[n]), n in full), n) for n in names}
        sums = {n: Accumulator(n in full, split and not self._proxy) for n in first.values()}
        try:
            references = repeat(None, len(self.feeds)) if other is None else own.values(places)
            for seed, (values, reference) in enumerate(zip((other or own).values(places), references, strict=True)):
                if seed < feeds:
                    self._add(sums, values, reference, seed, full)
        except RuntimeFailure:
            return {}
        found = {name: total.result() for name, total in sums.items()}
        usable = {name: self._weighted(one) for name, one in found.items() if one is not None}
        return {name: usable[same] for name, same in alike.items() if same in usable}

    def _weighted(self, found: SecondMoments | Moments) -> SecondMoments | Moments:
        """Samples of proxy inputs count less."""
        if self._proxy and isinstance(found, SecondMoments):
            return replace(found, sample_weight=PROXY_SAMPLE_WEIGHT)
        return found

    def _add(
        self, sums: Mapping[str, Accumulator], values: Values, reference: Values | None, seed: int,
        full: frozenset[str],
    ) -> None:  # fmt: skip
        for name, total in sums.items():
            feature = self.features[name]
            most = min(ROWS, max(_FEWEST_ROWS, _ROWS_A_COLUMN * feature.width)) if name in full else _FEWEST_ROWS
            count = -(-most // len(self.feeds))
            rows = feature.rows(values[feature.place], count, seed)
            if rows is not None:
                total.add(rows, None if reference is None else feature.rows(reference[feature.place], count, seed))


def _identity(feature: Feature) -> object:
    """Equal for features that give the same samples of a value."""
    at = sorted((feature.attributes or {}).items())
    return feature.place, feature.kind, feature.groups, feature.width, feature.kernel, repr(at)


def _batches(data: Data) -> tuple[Feed, ...]:
    """The data in at least two batches, if it can be split: the shrinkage is cross-validated between halves."""
    parts = batched(data)
    if len(parts.feeds) == 1:
        parts = batched(data, max(1, -(-data.rows // 2)))
    return thinned(parts, _MOST_ROWS).feeds


def _parts(data: Data) -> tuple[tuple[Feed, ...], tuple[Feed, ...]]:
    """Batches for learning and held-out batches; none are held out where `data` is small or cannot be split."""
    learned, held = held_out(data, _HELD)
    few = len(learned.feeds) + len(held.feeds) < _HELD or learned.rows < _FEWEST_LEARNED
    if few or held.rows * 2 * _HELD < learned.rows + held.rows:
        return _batches(data), ()
    return thinned(learned, _MOST_ROWS * (_HELD - 1) // _HELD).feeds, thinned(held, _MOST_ROWS // _HELD).feeds


def _full(found: Mapping[str, SecondMoments | Moments]) -> dict[str, SecondMoments]:
    return {n: one for n, one in found.items() if isinstance(one, SecondMoments)}
