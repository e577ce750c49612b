"""Settings of block reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixquant_onnx.errors import OptionError

_MOST_ITERATIONS = 1_000_000
"""Guard against typing errors; 500 is the default, 200 were enough in docs/experiment-brecq.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """How blocks are reconstructed.

    Attributes:
        seed: Seed of the random choice of samples and directions.
        iterations: Steps of Adam for each block.
        resume: Folder of finished blocks; None for no checkpoints.

    Raises:
        OptionError: A number is out of range.
    """

    seed: int = 0
    iterations: int = 500
    resume: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 31:
            raise OptionError("--seed takes a number from 0 to 2147483647")
        if not 0 < self.iterations <= _MOST_ITERATIONS:
            raise OptionError(f"--iterations takes a number from 1 to {_MOST_ITERATIONS}")
