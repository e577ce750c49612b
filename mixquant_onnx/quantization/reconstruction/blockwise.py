"""Bookkeeping of block-wise reconstruction: the block of each weight, and the outcome of each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.errors import counted
from mixquant_onnx.model.blocks import Block, find_blocks
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.quantization.methods import method
from mixquant_onnx.quantization.reconstruction.checkpoints import Checkpoints, key_of
from mixquant_onnx.quantization.reconstruction.reconstructor import Misfit, Outcome, ReconstructionTask, Reconstructor


@dataclass(kw_only=True, slots=True, eq=False)
class Blockwise:
    """Blocks in the order of the graph. Weights in no block, or in one that fails, are left to layer-by-layer methods.

    Attributes:
        blocks: The block of each weight in one, by the weight's name.
        alone: Weights of a reconstruction method that are in no block.
        reconstructor: The reconstructor of the plan's method; None where no weight has one.
        checkpoints: Finished blocks on disk; None where no weight has such a method.
        outcomes: Outcome by the block's exit; filled as blocks are reconstructed or loaded.
        failed: Why a block could not be reconstructed, by its exit; filled.
        loaded: Exits of blocks that an earlier run finished; filled.
    """

    blocks: Mapping[str, Block] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    reconstructor: Reconstructor | None = None
    checkpoints: Checkpoints | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.blocks

    def members(self, name: str) -> tuple[str, ...]:
        """Names of all weights of the block of the weight `name`."""
        return self.blocks[name].sites

    def status(self, name: str) -> str:
        """The outcome of the block of `name`, for the progress line; empty where there is none yet."""
        outcome = self.outcomes.get(self.blocks[name].exit)
        return "" if outcome is None else f": error {outcome.before:.3g} -> {outcome.after:.3g}"

    def load_checkpoint(self, name: str) -> dict[str, QuantizedTensor] | None:
        """The weights of a block from an earlier run.

        Args:
            name: A weight of the block.

        Returns:
            All its weights by name; None where there is no checkpoint.
        """
        block = self.blocks[name]
        found = None if self.checkpoints is None else self.checkpoints.load(block)
        if found is None:
            return None
        made, self.outcomes[block.exit] = found
        self.loaded.add(block.exit)
        if self.reconstructor is not None:
            self.reconstructor.advance(block)
        return made

    def reconstruct(self, name: str, starts: Mapping[str, QuantizedTensor]) -> dict[str, QuantizedTensor] | None:
        """Reconstruct the block of a weight.

        Args:
            name: A weight of the block.
            starts: All its weights, quantized layer by layer without the held-out samples.

        Returns:
            The weights by name; None where nothing is gained, or it cannot be done (which becomes a note).
        """
        block = self.blocks[name]
        assert self.reconstructor is not None
        try:
            made, self.outcomes[block.exit] = self.reconstructor.reconstruct(block, starts)
        except Misfit as reason:
            self.failed[block.exit] = str(reason)
            return None
        return made

    def save_checkpoint(self, name: str, made: Mapping[str, QuantizedTensor]) -> None:
        """Save a finished block, where it was reconstructed or tried.

        Args:
            name: A weight of the block.
            made: All its weights by name.

        Raises:
            OutputError: The file cannot be written.
        """
        block = self.blocks[name]
        outcome = self.outcomes.get(block.exit)
        if self.checkpoints is not None and outcome is not None:
            self.checkpoints.save(block, made, outcome)

    def notes(self) -> tuple[str, ...]:
        """Notes for the user: errors before and after, undecided weights, failed blocks."""
        notes = []
        if self.alone:
            notes.append(
                f"{counted(len(self.alone), 'weight is', 'weights are')} in no block ('{self.alone[0]}'): "
                f"reconstructed alone (adaround)"
            )
        if self.loaded and self.checkpoints is not None:
            notes.append(
                f"{len(self.loaded)} of {len(set(self.blocks.values()))} blocks are those of an earlier run, "
                f"from {self.checkpoints.task.settings.resume}"
            )
        if self.outcomes:
            notes.append(_summary(self.outcomes))
        for place, reason in self.failed.items():
            notes.append(f"the block that ends at '{place}' is quantized layer by layer: {reason}")
        return tuple(notes)


def blockwise(
    model: ModelProto, current: ModelProto, weights: Mapping[str, LocatedWeight], schemes: Mapping[str, Scheme],
    calibration: Calibration, settings: RoundingOptions,
) -> Blockwise:  # fmt: skip
    """The blocks of the weights whose method reconstructs; empty where there is none.

    A plan has one such method: the reconstructor is that of the first weight with one.

    Args:
        model: The float model.
        current: Its copy, in which weights are replaced as they are finished.
        weights: All weights of `model` by name: where blocks end depends on all of them.
        schemes: The plan, by name.
        calibration: The data, with held-out samples.
        settings: Seed, iterations, folder of checkpoints.

    Returns:
        The blocks, none of them reconstructed yet.
    """
    makers = {name: method(scheme.method).reconstruction for name, scheme in schemes.items()}
    wanted = [name for name, maker in makers.items() if maker is not None]
    make = makers[wanted[0]] if wanted else None
    if make is None:
        return Blockwise()
    found = find_blocks(model, weights, wanted)
    blocks = {name: block for block in found for name in block.sites}
    task = ReconstructionTask(
        model=model, current=current, weights=weights, blocks=found, feeds=calibration.feeds,
        learned=calibration.learned, settings=settings,
    )  # fmt: skip
    key = key_of(task, schemes) if settings.resume is not None else ""
    return Blockwise(
        blocks=blocks,
        alone=tuple(name for name in wanted if name not in blocks),
        reconstructor=make(task),
        checkpoints=Checkpoints(task=task, schemes=schemes, key=key),
    )


def _summary(outcomes: Mapping[str, Outcome]) -> str:
    found = list(outcomes.values())
    before, after = sum(one.before for one in found), sum(one.after for one in found)
    place, worst = max(outcomes.items(), key=lambda item: item[1].after / max(item[1].before, 1e-30))
    better = sum(one.after < one.before for one in found)
    return (
        f"{better} of {len(found)} blocks are better reconstructed than layer by layer: squared error "
        f"{before:.4g} -> {after:.4g}; least gain at '{place}' ({worst.before:.4g} -> {worst.after:.4g}); "
        f"at most {max(one.still_open for one in found):.2%} of a block's weights were left open"
    )
