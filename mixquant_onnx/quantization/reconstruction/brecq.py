"""BRECQ: block by block, learn the rounding that brings the block's output close to the float model's.

The block's inputs are those of the partly quantized model.

Source:
    Li et al. 2021, arXiv 2102.05426.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from mixquant_onnx.errors import first_line
from mixquant_onnx.model.blocks import Block
from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.model.weights import weight_values
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.quantization.reconstruction.fisher import importances
from mixquant_onnx.quantization.reconstruction.learning import BlockLoss, Samples, learn
from mixquant_onnx.quantization.reconstruction.reconstructor import Misfit, Outcome, ReconstructionTask
from mixquant_onnx.quantization.reconstruction.soft_rounding import SoftWeight
from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator
from mixquant_onnx.runtime.incremental import IncrementalExecutor
from mixquant_onnx.runtime.session import RuntimeFailure

FEWEST_ROWS = 16
"""Fewest samples for a block, of which two are held out."""

_TOLERANCE = 1e-3
"""Largest difference between a block in torch and in ONNX Runtime, relative to its largest output: well above float32
rounding of sums, well below the error of quantization.
"""

_FEW_ROWS = 5
"""Samples on which it is checked that outputs of single samples are independent of the others."""


class Brecq:
    """The `Reconstructor` of BRECQ.

    Args:
        task: Models, weights, blocks and data.
    """

    def __init__(self, task: ReconstructionTask) -> None:
        names = list(dict.fromkeys(name for block in task.blocks for name in (*block.inputs, block.exit)))
        self._task = task
        self._float = IncrementalExecutor(task.model, names, task.feeds)
        self._quantized = IncrementalExecutor(task.current, names, task.feeds)
        exits = [block.exit for block in task.blocks]
        self._importance = importances(task.model, exits, task.feeds, task.settings.seed)

    def reconstruct(
        self, block: Block, starts: Mapping[str, QuantizedTensor]
    ) -> tuple[dict[str, QuantizedTensor] | None, Outcome]:
        """See `Reconstructor`."""
        weights, settings = self._task.weights, self._task.settings
        program = self._program(block)
        try:
            samples = self._samples(block, program)
        except RuntimeFailure as failure:
            raise Misfit(f"ONNX Runtime: {failure}") from failure
        stored = {weights[name].source.name: name for name in block.sites}
        soft = {
            value: SoftWeight(np.asarray(weight_values(weights[name]), np.float32), starts[name])
            for value, name in stored.items()
        }
        given = {v: torch.from_numpy(starts[n].dequantize(np.dtype(np.float32))) for v, n in stored.items()}
        loss = BlockLoss(
            program=program, output=block.exit, constants=_constants(self._task.current, program), samples=samples
        )
        try:
            outcome = learn(loss, soft, given, settings.iterations, settings.seed)
        except RuntimeError as error:
            raise Misfit(f"torch: {first_line(error, 120)}") from error
        if not outcome.after < outcome.before:
            return None, replace(outcome, after=outcome.before)
        return {name: soft[value].hardened() for value, name in stored.items()}, outcome

    def advance(self, block: Block) -> None:
        """See `Reconstructor`.

        Makes the same runs as `reconstruct`: ONNX Runtime's sums depend on how a graph is cut.
        """
        self._float.advance([*block.inputs, block.exit])
        self._quantized.advance(block.inputs)

    def _program(self, block: Block) -> Program:
        """The block in torch. Raises Misfit where it lacks an operator, or a weight is not float32."""
        weights = self._task.weights
        try:
            program = Program([self._task.model.graph.node[k] for k in block.nodes])
        except UnknownOperator as reason:
            raise Misfit(str(reason)) from reason
        unusual = [name for name in block.sites if weights[name].site.dtype != "float32"]
        if unusual:
            raise Misfit(f"'{unusual[0]}' is {weights[unusual[0]].site.dtype}")
        return program

    def _samples(self, block: Block, program: Program) -> Samples:
        """Inputs of the block in the quantized model, and outputs of the float model. Raises Misfit, RuntimeFailure."""
        own = list(self._float.values([*block.inputs, block.exit]))
        constants = _constants(self._task.model, program)
        first = {name: _tensor(own[0][name]) for name in (*block.inputs, block.exit)}
        _check(program, block.exit, constants, {n: first[n] for n in block.inputs}, first[block.exit])
        changed = list(self._quantized.values(block.inputs))
        targets = [feed[block.exit] for feed in own]
        if any(t.ndim < 2 or t.shape[1:] != targets[0].shape[1:] or t.dtype != np.float32 for t in targets):
            raise Misfit("its outputs differ in shape from feed to feed")
        if sum(map(len, targets)) < FEWEST_ROWS:
            raise Misfit(f"{sum(map(len, targets))} rows of data, fewer than {FEWEST_ROWS}")
        _check_rows(block, program, constants, _few(own, block.exit))
        weight = self._importance.get(block.exit)
        rows, fixed = _apart(block.inputs, changed, [len(target) for target in targets])
        target = torch.from_numpy(np.concatenate(targets))
        learned = sum(map(len, targets[: self._task.learned]))
        return Samples(rows=rows, fixed=fixed, target=target, learned=learned, importance=weight)


def _constants(model: ModelProto, program: Program) -> dict[str, Tensor]:
    """Stored tensors of `model` that the block reads, by name."""
    read = program.reads
    return {t.name: torch.from_numpy(_values(t)) for t in model.graph.initializer if t.name in read}


def _tensor(value: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))


def _values(tensor: object) -> NDArray[np.generic]:
    return np.array(values_of(tensor))  # type: ignore[arg-type]


def _check(
    program: Program, output: str, constants: Mapping[str, Tensor], given: Mapping[str, Tensor], wanted: Tensor
) -> None:
    """Raise Misfit where torch and ONNX Runtime differ."""
    try:
        with torch.no_grad():
            found = program.run({**constants, **given}, [output])[0]
    except (UnknownOperator, RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise Misfit(f"it does not run in torch: {first_line(error, 120)}") from error
    if found.shape != wanted.shape:
        raise Misfit(f"torch gives shape {tuple(found.shape)}, ONNX Runtime {tuple(wanted.shape)}")
    largest = max(float(wanted.abs().max()), 1e-30) if wanted.numel() else 1.0
    away = float((found - wanted).abs().max()) / largest if wanted.numel() else 0.0
    if not away <= _TOLERANCE:
        raise Misfit(f"torch differs from ONNX Runtime by {away:.1e} of its output")


def _check_rows(
    block: Block, program: Program, constants: Mapping[str, Tensor], feeds: Sequence[Mapping[str, FloatArray]]
) -> None:
    """Raise Misfit where outputs of some samples depend on the others in the batch."""
    targets = [feed[block.exit] for feed in feeds]
    rows, fixed = _apart(block.inputs, feeds, [len(target) for target in targets])
    some = torch.arange(sum(map(len, targets))).flip(0)[::2]
    given = {name: value[some] for name, value in rows.items()} | fixed
    wanted = torch.from_numpy(np.concatenate(targets))[some]
    try:
        _check(program, block.exit, constants, given, wanted)
    except Misfit as reason:
        raise Misfit(f"its rows cannot be taken apart: {reason}") from reason


def _few(feeds: Sequence[Mapping[str, FloatArray]], output: str) -> list[Mapping[str, FloatArray]]:
    """The first batches, with at least five samples in total."""
    found: list[Mapping[str, FloatArray]] = []
    for feed in feeds:
        if sum(len(one[output]) for one in found) >= _FEW_ROWS:
            break
        found.append(feed)
    return found


def _apart(
    names: Sequence[str], feeds: Sequence[Mapping[str, FloatArray]], counts: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs with one entry for each sample, and inputs that are the same for all. Raises Misfit."""
    rows: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    for name in names:
        values = [feed[name] for feed in feeds]
        if _along(values, counts):
            rows[name] = torch.from_numpy(np.concatenate(values))
        elif all(np.array_equal(value, values[0]) for value in values):
            fixed[name] = _tensor(values[0])
        else:
            raise Misfit(f"its input '{name}' has no row for each row of its output")
    return rows, fixed


def _along(values: Sequence[FloatArray], counts: Sequence[int]) -> bool:
    """Whether the first axis of each value has one entry for each sample of its batch."""
    return all(
        v.ndim > 0 and len(v) == n and v.shape[1:] == values[0].shape[1:] for v, n in zip(values, counts, strict=True)
    )
