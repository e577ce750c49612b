"""One block after another: what it takes from the quantized prefix, what the float model makes of it, its rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor

from mixquant_onnx.errors import first_line
from mixquant_onnx.model.blocks import Block
from mixquant_onnx.model.weights import LocatedSite, weight_values
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.scheme import Quantized, dequantized
from mixquant_onnx.options import Reconstruction
from mixquant_onnx.quantization.reconstruction.fisher import importances
from mixquant_onnx.quantization.reconstruction.learning import Samples, learn
from mixquant_onnx.quantization.reconstruction.outcome import Outcome
from mixquant_onnx.quantization.reconstruction.soft_rounding import SoftWeight
from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator
from mixquant_onnx.runtime.incremental import Activations
from mixquant_onnx.runtime.session import Feed, RuntimeFailure

FEWEST_ROWS = 16
_TOLERANCE = 1e-3
"""Largest difference of a block in torch to ONNX Runtime, as a share of its largest output."""


_FEW_ROWS = 5
"""Rows that show whether they can be taken apart."""


class Misfit(Exception):
    """A block that cannot be reconstructed; the message says why."""


class Runner:
    """Reconstructs the blocks of `model` in order; `current` is its copy in which finished weights are replaced.

    Learns from the first `learned` of `feeds` and judges by the others.
    """

    def __init__(
        self, model: ModelProto, current: ModelProto, sites: Mapping[str, LocatedSite], blocks: Sequence[Block],
        feeds: Sequence[Feed], learned: int, settings: Reconstruction,
    ) -> None:  # fmt: skip
        names = list(dict.fromkeys(name for block in blocks for name in (*block.inputs, block.exit)))
        self._model, self._current, self._sites, self._settings = model, current, sites, settings
        self._learned = learned
        self._own, self._changed = Activations(model, names, feeds), Activations(current, names, feeds)
        self._importance = importances(model, [block.exit for block in blocks], feeds, settings.seed)

    def reconstruct(self, block: Block, starts: Mapping[str, Quantized]) -> tuple[dict[str, Quantized] | None, Outcome]:
        """Codes of the block's sites by name, from `starts`; None where nothing is gained. Raises Misfit."""
        try:
            program = Program([self._model.graph.node[k] for k in block.nodes])
        except UnknownOperator as reason:
            raise Misfit(str(reason)) from reason
        unusual = [name for name in block.sites if self._sites[name].site.dtype != "float32"]
        if unusual:
            raise Misfit(f"'{unusual[0]}' is {self._sites[unusual[0]].site.dtype}")
        try:
            samples = self._samples(block, program)
        except RuntimeFailure as failure:
            raise Misfit(f"ONNX Runtime: {failure}") from failure
        stored = {self._sites[name].source.name: name for name in block.sites}
        soft = {
            value: SoftWeight(np.asarray(weight_values(self._sites[name]), np.float32), starts[name])
            for value, name in stored.items()
        }
        given = {v: torch.from_numpy(dequantized(starts[n], np.dtype(np.float32))) for v, n in stored.items()}
        try:
            outcome = learn(
                program, block.exit, soft, given, self._constants(self._current, program), samples,
                self._settings.iterations, self._settings.seed,
            )  # fmt: skip
        except RuntimeError as error:
            raise Misfit(f"torch: {first_line(error, 120)}") from error
        if not outcome.after < outcome.before:
            return None, replace(outcome, after=outcome.before)
        return {name: soft[value].hardened() for value, name in stored.items()}, outcome

    def pass_by(self, block: Block) -> None:
        """What comes after finds all as it is after `reconstruct`, though ONNX Runtime's sums depend on its path."""
        self._own.pass_by([*block.inputs, block.exit])
        self._changed.pass_by(block.inputs)

    def _samples(self, block: Block, program: Program) -> Samples:
        own = list(self._own.values([*block.inputs, block.exit]))
        constants = self._constants(self._model, program)
        first = {name: _tensor(own[0][name]) for name in (*block.inputs, block.exit)}
        _check(program, block.exit, constants, {n: first[n] for n in block.inputs}, first[block.exit])
        changed = list(self._changed.values(block.inputs))
        targets = [feed[block.exit] for feed in own]
        if any(t.ndim < 2 or t.shape[1:] != targets[0].shape[1:] or t.dtype != np.float32 for t in targets):
            raise Misfit("its outputs differ in shape from feed to feed")
        if sum(map(len, targets)) < FEWEST_ROWS:
            raise Misfit(f"{sum(map(len, targets))} rows of data, fewer than {FEWEST_ROWS}")
        _check_rows(block, program, constants, _few(own, block.exit))
        weight = self._importance.get(block.exit)
        rows, fixed = _apart(block.inputs, changed, [len(target) for target in targets])
        target = torch.from_numpy(np.concatenate(targets))
        learned = sum(map(len, targets[: self._learned]))
        return Samples(rows=rows, fixed=fixed, target=target, learned=learned, importance=weight)

    def _constants(self, model: ModelProto, program: Program) -> dict[str, Tensor]:
        read = program.reads
        return {t.name: torch.from_numpy(_values(t)) for t in model.graph.initializer if t.name in read}


def _tensor(value: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))


def _values(tensor: object) -> NDArray[np.generic]:
    return np.array(numpy_helper.to_array(tensor))  # type: ignore[arg-type]


def _check(
    program: Program, output: str, constants: Mapping[str, Tensor], given: Mapping[str, Tensor], wanted: Tensor
) -> None:
    """Raises Misfit where torch does not give what ONNX Runtime gave."""
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
    """Whether some rows alone, in another order, give what they give among all."""
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
    """The first feeds, with at least five rows in all."""
    found: list[Mapping[str, FloatArray]] = []
    for feed in feeds:
        if sum(len(one[output]) for one in found) >= _FEW_ROWS:
            break
        found.append(feed)
    return found


def _apart(
    names: Sequence[str], feeds: Sequence[Mapping[str, FloatArray]], counts: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs that have a row for each row of the output, and those that are the same for all. Raises Misfit."""
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
    """Whether each value has the rows of its feed along its first axis."""
    return all(
        v.ndim > 0 and len(v) == n and v.shape[1:] == values[0].shape[1:] for v, n in zip(values, counts, strict=True)
    )
