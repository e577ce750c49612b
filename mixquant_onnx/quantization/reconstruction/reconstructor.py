"""The interface of block reconstruction: its task, its outcome, its protocol. Does not need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from onnx import ModelProto

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.model.blocks import Block
from mixquant_onnx.model.weights import LocatedWeight
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.runtime.session import Feed


class Misfit(Exception):
    """A block that cannot be reconstructed; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of one block.

    Attributes:
        before: Squared error of the block's output, quantized layer by layer, on held-out samples.
        after: The same after reconstruction.
        still_open: Share of the weights that ended between two levels.
        iterations: Steps of the optimizer.
    """

    before: float
    after: float
    still_open: float
    iterations: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReconstructionTask:
    """The input of a reconstruction.

    Attributes:
        model: The float model.
        current: Its copy, in which the weights of finished blocks and layers have been replaced.
        weights: All weights of `model` by name.
        blocks: The blocks in the order of the graph.
        feeds: Calibration batches: inputs of the model by name.
        learned: Number of leading `feeds` for learning; the others are held out.
        settings: Seed and iterations.
    """

    model: ModelProto
    current: ModelProto
    weights: Mapping[str, LocatedWeight]
    blocks: Sequence[Block]
    feeds: Sequence[Feed]
    learned: int
    settings: RoundingOptions


class Reconstructor(Protocol):
    """Reconstructs the blocks of a task, in their order."""

    def reconstruct(
        self, block: Block, starts: Mapping[str, QuantizedTensor]
    ) -> tuple[dict[str, QuantizedTensor] | None, Outcome]:
        """Learn the rounding of a block's weights.

        Args:
            block: The next block.
            starts: Its weights by name, as quantized layer by layer.

        Returns:
            The weights by name, None where nothing is gained; and the outcome.

        Raises:
            Misfit: The block cannot be reconstructed.
        """

    def advance(self, block: Block) -> None:
        """Move past a block whose weights are known from an earlier run, as `reconstruct` would.

        Args:
            block: The next block.
        """
