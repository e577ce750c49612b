"""All weights of a plan: each on its own, or in the order of the graph on inputs that earlier weights have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.activation_stream import ActivationStream
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.errors import counted
from mixquant_onnx.events import Progress, quiet
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.substitute import editable_copy, replace_weight
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.numerics.threads import in_threads
from mixquant_onnx.quantization.methods import is_calibrated, needs_torch, surrogate
from mixquant_onnx.quantization.reconstruction.blockwise import blockwise
from mixquant_onnx.quantization.weight import Inputs, quantization_error, quantize_weight

FEWEST_SAMPLES = 16
"""Samples of its input that a layer needs for a calibrated method; with fewer, moments alone are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorBound:
    """What a weight may be made into.

    Args:
        limit: Largest QE (mean squared error of the weight). Rounding to nearest keeps it; bias correction is given up
            where it would break it.
        wider: Schemes of more bits, in order, for a calibrated method that breaks the limit; empty to let it.
    """

    limit: float = float("inf")
    wider: tuple[Scheme, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layers:
    """The quantized weights by name, the QE of each (mean squared error of the weight), and notes for the user."""

    quantized: Mapping[str, QuantizedTensor]
    qe: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def of(self, names: Iterable[str]) -> Layers:
        """The weights `names` alone."""
        kept = list(names)
        return replace(self, quantized={n: self.quantized[n] for n in kept}, qe={n: self.qe[n] for n in kept})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkTask:
    """What is to be quantized.

    Args:
        model: The model with float weights; not changed.
        reference: The model whose outputs are wanted, with the same names of values; None where it is `model`.
        weights: All weights of `model` by name: where blocks end depends on those that stay float too.
        schemes: How each weight to quantize is quantized, by name.
        bounds: The error bound of each of these; without one there is none.
        compensated: Whether rounding is bias-corrected where the moments of the inputs are known.
        sample_weights: How many samples each sample of a weight's inputs counts as, where that is known; chosen from
            halves of the data for others.
        quick: Whether calibrated methods are replaced by gptq alone, to compare plans.
        scratch: Where codes are kept that do not fit into memory; None where all do.
        jobs: Weights that are quantized at the same time, where codes are kept there.
    """

    model: ModelProto
    weights: Mapping[str, LocatedWeight]
    schemes: Mapping[str, Scheme]
    bounds: Mapping[str, ErrorBound] = field(default_factory=dict)
    compensated: bool = True
    sample_weights: Mapping[str, float] = field(default_factory=dict)
    quick: bool = False
    reference: ModelProto | None = None
    scratch: Scratch | None = None
    jobs: int = 1

    @property
    def chosen(self) -> dict[str, LocatedWeight]:
        """The weights to quantize."""
        return {name: self.weights[name] for name in self.schemes}

    def quantize(self, name: str, inputs: Inputs, by_surrogate: bool = False) -> tuple[QuantizedTensor, float]:
        """One weight and its QE, by the method of its scheme or its surrogate; the error bound is kept."""
        located, bound = self.weights[name], self.bounds.get(name, ErrorBound())
        weight = weight_values(located)
        calibrated = isinstance(inputs, SecondMoments)
        limit = np.inf if calibrated else bound.limit
        if isinstance(inputs, SecondMoments) and name in self.sample_weights:
            inputs = replace(inputs, sample_weight=self.sample_weights[name], halves=None)

        def by(scheme: Scheme) -> QuantizedTensor:
            used = surrogate(scheme) if by_surrogate else scheme
            return replace(quantize_weight(located.site, weight, used, inputs, limit, self.quick), scheme=scheme)

        made = by(self.schemes[name])
        error = quantization_error(made, weight)
        for scheme in bound.wider if calibrated else ():
            if not error > bound.limit:
                break
            made = by(scheme)
            error = quantization_error(made, weight)
        return made, error


def quantize_layers(
    task: NetworkTask, data: Data | None, settings: RoundingOptions | None = None, progress: Progress = quiet
) -> Layers:
    """Quantize the weights of a network.

    Weights of calibrated methods are quantized one after another, on inputs that the weights before have changed. BLAS
    has one thread meanwhile: the products are small, and waiting threads take three times the CPU time on MobileNetV2.
    So results do not depend on the number of threads either.

    Args:
        task: The model, its weights and their schemes.
        data: Calibration data; None, or noise, for data-free methods alone.
        settings: Of the reconstruction of blocks.
        progress: Called after each weight or stage.

    Returns:
        The weights in the order of the schemes, and notes.
    """
    with threadpool_limits(1, "blas"):
        if data is None or data.origin == "noise" or not any(is_calibrated(s.method) for s in task.schemes.values()):
            return _independent(task, data, progress)
        return _InOrder(task, data, settings or RoundingOptions()).run(progress)


def _independent(task: NetworkTask, data: Data | None, progress: Progress) -> Layers:
    """Each weight on its own, with moments of its inputs in the float model."""
    inputs: Mapping[str, Inputs] = {}
    if data is not None and task.compensated:
        inputs = Calibration(task.model, task.chosen, data).moments(list(task.schemes))
    quantized, qe = {}, {}

    def made(name: str) -> tuple[QuantizedTensor, float]:
        q, error = task.quantize(name, inputs.get(name))
        return (q if task.scratch is None else replace(q, codes=task.scratch.array(q.codes))), error

    found = in_threads(made, task.schemes, 1 if task.scratch is None else task.jobs)
    for position, (name, one) in enumerate(zip(task.schemes, found, strict=True)):
        quantized[name], qe[name] = one
        progress("quantize", position + 1, len(task.schemes))
    return Layers(quantized=quantized, qe=qe)


class _InOrder:
    """Weights in the order of the graph, with second moments of their inputs in the partly quantized model.

    Two streams of activations advance through the graph: one of the float model, one of its copy in which finished
    weights are replaced.
    """

    def __init__(self, task: NetworkTask, data: Data, settings: RoundingOptions) -> None:
        self._task = task
        self._in_order = [name for name, scheme in task.schemes.items() if is_calibrated(scheme.method)]
        by_blocks = any(needs_torch(s.method) for s in task.schemes.values())
        self._calibration = Calibration(task.model, task.chosen, data, hold_back=by_blocks)
        current, self._replaced = editable_copy(task.model, task.weights)
        self._float, self._current = self._reference(), self._calibration.stream(current)
        self._stages = self._calibration.stages()
        self._blocks = blockwise(task.model, current, task.weights, task.schemes, self._calibration, settings)
        self._quantized: dict[str, QuantizedTensor] = {}
        self._qe: dict[str, float] = {}
        self._short: list[str] = []

    def _reference(self) -> ActivationStream:
        if self._task.reference is None:
            return self._calibration.float_stream()
        return self._calibration.stream(self._task.reference, changes=False)

    def run(self, progress: Progress) -> Layers:
        """Stage by stage; a stage is the weights that read the same value."""
        status = ""
        for stage in self._stages:
            for name in stage:
                if name in self._blocks and name not in self._quantized:
                    self._quantized |= self._block(name)
                    status = self._blocks.status(name)
            rest = [name for name in stage if name not in self._quantized]
            made, short = self._stage(rest, self._float, self._current)
            self._quantized |= made
            self._short += short
            self._calibration.advance([name for name in stage if name in self._blocks], self._float)
            progress(f"quantize{status}", len(self._quantized), len(self._task.schemes))
        layers = Layers(quantized=self._quantized, qe=self._qe, notes=self._notes() + self._blocks.notes())
        return layers.of(self._task.schemes)

    def _stage(
        self, names: Sequence[str], reference: ActivationStream, current: ActivationStream, every_feed: bool = True
    ) -> tuple[dict[str, QuantizedTensor], list[str]]:
        """Quantize weights that read the same value and put them into the current model; those with few samples."""
        wanted = [name for name in names if name in self._in_order]
        split = any(name not in self._task.sample_weights for name in wanted)
        seconds = self._calibration.collect(wanted, reference, current, every_feed, split)
        made, short = {}, []
        for name in names:
            inputs: Inputs = seconds.get(name)
            if not isinstance(inputs, SecondMoments) or inputs.samples < FEWEST_SAMPLES:
                short += [name] if inputs is not None else []
                inputs = self._calibration.moments([name], every_feed).get(name) if self._task.compensated else None
            made[name], self._qe[name] = self._task.quantize(name, inputs, by_surrogate=name in self._blocks)
            replace_weight(self._replaced[name], made[name])
        return made, short

    def _block(self, name: str) -> dict[str, QuantizedTensor]:
        """Quantize all weights of a block: layer by layer, then together from there."""
        members = self._blocks.members(name)
        parts = [part for stage in self._stages if (part := [n for n in stage if n in members])]
        self._calibration.advance(parts[0], self._current)
        made = self._blocks.load_checkpoint(name)
        if made is None:
            starts, short = self._layer_by_layer(parts, every_feed=False)
            made = self._blocks.reconstruct(name, starts)
            if made is None:
                again = self._calibration.holds_back
                made, short = self._layer_by_layer(parts, every_feed=True) if again else (starts, short)
                self._short += short
            self._blocks.save_checkpoint(name, made)
        for member, q in made.items():
            replace_weight(self._replaced[member], q)
            self._qe[member] = quantization_error(q, weight_values(self._task.weights[member]))
        return made

    def _layer_by_layer(
        self, parts: Sequence[Sequence[str]], every_feed: bool
    ) -> tuple[dict[str, QuantizedTensor], list[str]]:
        """Solve the block's layers one by one on forked streams; the shared streams are not advanced."""
        reference, current = self._float.fork(), self._current.fork()
        solved = [self._stage(part, reference, current, every_feed) for part in parts]
        return {n: q for made, _ in solved for n, q in made.items()}, [n for _, short in solved for n in short]

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._short:
            notes.append(
                f"{counted(len(self._short), 'layer')} met fewer than {FEWEST_SAMPLES} samples: only rounded "
                f"('{self._short[0]}'): give more data"
            )
        wide = [name for name in self._in_order if self._calibration.is_too_wide(name)]
        if wide:
            notes.append(
                f"{counted(len(wide), 'wide layer is', 'wide layers are')} rounded by the means and variances of proxy "
                f"inputs alone ('{wide[0]}'): give --data"
            )
        unseen = [name for name in self._in_order if name not in self._calibration.features]
        if unseen:
            notes.append(
                f"{counted(len(unseen), 'weight has', 'weights have')} no inputs to calibrate with ('{unseen[0]}'); "
                f"ranges there are those of mse"
            )
        return tuple(notes)
