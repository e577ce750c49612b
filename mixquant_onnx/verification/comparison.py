"""Two models compared: a float model, and one that is to stand for it, made by whatever tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.data.dataset import Data, batched
from mixquant_onnx.data.outputs import reference_outputs
from mixquant_onnx.data.split import with_axes
from mixquant_onnx.errors import ModelError, ProofError
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.files import Loaded
from mixquant_onnx.numerics.outputs import Outputs
from mixquant_onnx.runtime.session import RuntimeFailure, Session
from mixquant_onnx.verification.benchmark import Benchmark, measured
from mixquant_onnx.verification.classes import class_axes
from mixquant_onnx.verification.labels import chance_words, class_count, float_accuracy
from mixquant_onnx.verification.latency import Latency
from mixquant_onnx.verification.layer_differences import LayerDifference, layer_differences
from mixquant_onnx.verification.memory import Memory
from mixquant_onnx.verification.next_tokens import TokenOutput, token_output
from mixquant_onnx.verification.quality import Quality, session_quality
from mixquant_onnx.verification.statistics import Share

_STEPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A limit, and what was found.

    Attributes:
        limit: The option as it was given, such as `--min-sqnr 40`.
        value: What was found, as text.
        kept: Whether the limit is kept.
    """

    limit: str
    value: str
    kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What differs between two models.

    Attributes:
        nbytes: Sizes of both, external data included.
        quality: The other model's outputs against the float model's, under default options.
        float_accuracy: Top-1 accuracy of the float model, where there are labels.
        layers: Values inside that both have by the same name, in the order of the float graph.
        times: On one sample, with one thread and with two; empty where not measured.
        rounds: With a limit of time, all measurements with one thread; `times` has the median.
        memory: Of both sessions; None where not measured.
        samples: Number of samples.
        data: Their name.
        origin: Where they come from.
        notes: What was not compared, and why.
        limits: The limits, as `accuracy.gates.judged` gives them.
    """

    nbytes: tuple[int, int]
    quality: Quality
    float_accuracy: Share | None
    layers: tuple[LayerDifference, ...]
    times: tuple[Latency, ...]
    memory: tuple[Memory, Memory] | None
    samples: int
    data: str
    origin: str
    notes: tuple[str, ...]
    rounds: tuple[Latency, ...] = ()
    limits: tuple[Limit, ...] = ()

    @property
    def first_apart(self) -> LayerDifference | None:
        """The first value that is far from the float model's; None where none is."""
        return next((layer for layer in self.layers if layer.apart), None)


def compare(
    reference: Loaded,
    other: Loaded,
    data: Data,
    *,
    timed: bool = True,
    max_slower: str | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """Run two models on the same samples.

    Args:
        reference: The float model.
        other: The model that is to stand for it.
        data: The samples.
        timed: Whether to measure time and memory.
        max_slower: A limit of time, near which time is measured several times; None for none.
        progress: Called with the stage "compare".

    Returns:
        The differences.

    Raises:
        ModelError: The float model does not load.
        ProofError: The other model does not load or run, or has other inputs or outputs.
        DataError: The float model does not run on the samples.
    """
    progress("compare", 0, _STEPS)
    first, second = (one.path or one.model for one in (reference, other))
    session = _session(first)
    data = batched(with_axes(session, data))
    wanted = reference_outputs(session, data)
    progress("compare", 1, _STEPS)
    judged, axes = _loaded(other, session), class_axes(reference.model, wanted, session.outputs)
    quality = _quality(wanted, judged, data, axes, token_output(session, data, wanted, axes))
    progress("compare", 2, _STEPS)
    notes: list[str] = []
    layers = _layers(reference.model, other.model, data, notes)
    progress("compare", 3, _STEPS)
    figures = measured(first, second, batched(data, 1).feeds[0], max_slower) if timed else Benchmark()
    exact = float_accuracy(wanted, data, session.outputs, axes)
    notes += chance_words(exact, class_count(wanted, session.outputs, axes))
    progress("compare", 4, _STEPS)
    return Comparison(
        nbytes=(reference.nbytes, other.nbytes),
        quality=quality,
        float_accuracy=exact,
        layers=layers,
        times=figures.times,
        rounds=figures.rounds,
        memory=figures.memory,
        samples=data.rows,
        data=data.name,
        origin=data.origin,
        notes=tuple(notes),
    )


def _quality(
    wanted: Outputs, judged: Session, data: Data, axes: Mapping[str, int], tokens: TokenOutput | None
) -> Quality:
    try:
        return session_quality(wanted, judged, data, axes, tokens)
    except RuntimeFailure as failure:
        raise ProofError(f"the second model does not run on this data: {failure}") from failure


def _session(first: Path | ModelProto) -> Session:
    try:
        return Session(first)
    except RuntimeFailure as failure:
        raise ModelError(f"the first model does not load: {failure}") from failure


def _loaded(other: Loaded, session: Session) -> Session:
    try:
        judged = Session(other.path or other.model)
    except RuntimeFailure as failure:
        raise ProofError(f"the second model does not load: {failure}") from failure
    for what in ("inputs", "outputs"):
        own, theirs = getattr(session, what), getattr(judged, what)
        if own != theirs:
            raise ProofError(f"the second model has other {what}: {_named(theirs)} in place of {_named(own)}")
    return judged


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _layers(first: ModelProto, second: ModelProto, data: Data, notes: list[str]) -> tuple[LayerDifference, ...]:
    try:
        found = layer_differences(first, second, data)
    except RuntimeFailure as failure:
        notes.append(f"values inside were not compared: {failure}")
        return ()
    if not found:
        notes.append("values inside were not compared: the models have none by the same name")
    return found
