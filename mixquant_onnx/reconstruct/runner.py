"""One block after another: what it takes from the quantized prefix, what the float model makes of it, its rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor

from mixquant_onnx.activations import Activations
from mixquant_onnx.graph.blocks import Block
from mixquant_onnx.graph.sites import LocatedSite, weight_values
from mixquant_onnx.options import Reconstruction
from mixquant_onnx.quantizer import dequantized
from mixquant_onnx.reconstruct.descent import Outcome, Samples, learn
from mixquant_onnx.reconstruct.importance import importances
from mixquant_onnx.reconstruct.operators import Program, UnknownOperator
from mixquant_onnx.reconstruct.soft import SoftWeight
from mixquant_onnx.runtime import Feed, RuntimeFailure
from mixquant_onnx.types import FloatArray, Quantized

BATCH = 16
FEWEST_ROWS = 16
_TOLERANCE = 1e-3
"""Largest difference of a block in torch to ONNX Runtime, as a share of its largest output."""


class Misfit(Exception):
    """A block that cannot be reconstructed; the message says why."""


class Runner:
    """Reconstructs the blocks of `model` in order; `current` is its copy in which finished weights are replaced."""

    def __init__(
        self, model: ModelProto, current: ModelProto, sites: Mapping[str, LocatedSite], blocks: Sequence[Block],
        feeds: Sequence[Feed], settings: Reconstruction,
    ) -> None:  # fmt: skip
        names = list(dict.fromkeys(name for block in blocks for name in (*block.inputs, block.exit)))
        self._model, self._current, self._sites, self._settings = model, current, sites, settings
        self._own, self._changed = Activations(model, names, feeds), Activations(current, names, feeds)
        self._importance = importances(model, [block.exit for block in blocks], feeds, settings.seed)

    def reconstruct(self, block: Block, starts: Mapping[str, Quantized]) -> tuple[dict[str, Quantized], Outcome]:
        """Codes of the block's sites by name, from `starts`, or these where nothing is gained. Raises Misfit."""
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
        outcome = learn(
            program, block.exit, soft, given, self._constants(self._current, program), samples,
            self._settings.iterations, BATCH, self._settings.seed,
        )  # fmt: skip
        if not outcome.after < outcome.before:
            return {name: starts[name] for name in block.sites}, replace(outcome, after=outcome.before)
        return {name: soft[value].hardened() for value, name in stored.items()}, outcome

    def _samples(self, block: Block, program: Program) -> Samples:
        own = list(self._own.values([*block.inputs, block.exit]))
        self._check(block, program, own[0])
        changed = list(self._changed.values(block.inputs))
        targets = [feed[block.exit] for feed in own]
        if any(t.ndim < 2 or t.shape[1:] != targets[0].shape[1:] or t.dtype != np.float32 for t in targets):
            raise Misfit("its outputs differ in shape from feed to feed")
        counts = [len(target) for target in targets]
        if sum(counts) < FEWEST_ROWS:
            raise Misfit(f"{sum(counts)} rows of data, fewer than {FEWEST_ROWS}")
        rows: dict[str, Tensor] = {}
        fixed: dict[str, Tensor] = {}
        for name in block.inputs:
            values = [feed[name] for feed in changed]
            if _along(values, counts):
                rows[name] = torch.from_numpy(np.concatenate(values))
            elif all(np.array_equal(value, values[0]) for value in values):
                fixed[name] = torch.from_numpy(np.ascontiguousarray(values[0]))
            else:
                raise Misfit(f"its input '{name}' differs in shape from feed to feed")
        weight = self._importance.get(block.exit)
        return Samples(rows=rows, fixed=fixed, target=torch.from_numpy(np.concatenate(targets)), importance=weight)

    def _check(self, block: Block, program: Program, feed: Mapping[str, FloatArray]) -> None:
        given = {name: torch.from_numpy(np.ascontiguousarray(feed[name])) for name in block.inputs}
        try:
            with torch.no_grad():
                found = program.run({**self._constants(self._model, program), **given}, [block.exit])[0].numpy()
        except (UnknownOperator, RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise Misfit(f"it does not run in torch: {str(error).splitlines()[0][:120]}") from error
        wanted = feed[block.exit]
        if found.shape != wanted.shape:
            raise Misfit(f"torch gives shape {found.shape}, ONNX Runtime {wanted.shape}")
        away = float(np.abs(found - wanted).max(initial=0)) / max(float(np.abs(wanted).max(initial=0)), 1e-30)
        if not away <= _TOLERANCE:
            raise Misfit(f"torch differs from ONNX Runtime by {away:.1e} of its output")

    def _constants(self, model: ModelProto, program: Program) -> dict[str, Tensor]:
        read = program.reads
        return {t.name: torch.from_numpy(_values(t)) for t in model.graph.initializer if t.name in read}


def _values(tensor: object) -> NDArray[np.generic]:
    return np.array(numpy_helper.to_array(tensor))  # type: ignore[arg-type]


def _along(values: Sequence[FloatArray], counts: Sequence[int]) -> bool:
    """Whether each value has the rows of its feed along its first axis."""
    return all(
        v.ndim > 0 and len(v) == n and v.shape[1:] == values[0].shape[1:] for v, n in zip(values, counts, strict=True)
    )
