"""Finished blocks on disk, so that an interrupted run can be resumed (--resume)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mixquant_onnx.errors import writing
from mixquant_onnx.model.blocks import Block
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.quantization.reconstruction.reconstructor import Outcome, ReconstructionTask

_VERSION = 3
"""Incremented when reconstruction changes, so that older checkpoints are not loaded."""

_PARTS = ("codes", "scale", "zero_point")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoints:
    """The checkpoints of one task: one .npz file per block, named by `key` and the block's exit.

    Attributes:
        task: The task; its settings name the folder, None for no checkpoints.
        schemes: Schemes of all weights of the plan, by name.
        key: From `key_of`: a checkpoint of another model, plan, data or settings is not found.
    """

    task: ReconstructionTask
    schemes: Mapping[str, Scheme]
    key: str

    def save(self, block: Block, made: Mapping[str, QuantizedTensor], outcome: Outcome) -> None:
        """Write the weights of a block, under a temporary name first.

        Args:
            block: The block.
            made: Its weights by name.
            outcome: Its errors.

        Raises:
            OutputError: The file cannot be written.
        """
        file = self._file(block)
        if file is None:
            return
        parts = {f"{part}/{name}": getattr(q, part) for name, q in made.items() for part in _PARTS}
        parts |= {f"loss/{name}": np.array(value) for name, value in asdict(outcome).items()}
        with writing(file):
            unfinished = file.with_suffix(".part")
            try:
                with unfinished.open("wb") as stream:
                    np.savez(stream, **parts)
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)

    def load(self, block: Block) -> tuple[dict[str, QuantizedTensor], Outcome] | None:
        """Read the weights of a block.

        Args:
            block: The block.

        Returns:
            Its weights by name and their outcome; None where no complete checkpoint is found.
        """
        file = self._file(block)
        if file is None:
            return None
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found = {name: {part: stored[f"{part}/{name}"] for part in _PARTS} for name in block.sites}
                outcome = Outcome(**{field.name: stored[f"loss/{field.name}"].item() for field in fields(Outcome)})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        sites = {name: self.task.weights[name].site for name in block.sites}
        if any(found[name]["codes"].shape != site.shape for name, site in sites.items()):
            return None
        made = {
            name: QuantizedTensor(scheme=self.schemes[name], layout=site.layout, dtype=site.dtype, **found[name])
            for name, site in sites.items()
        }
        return made, outcome

    def _file(self, block: Block) -> Path | None:
        if self.task.settings.resume is None:
            return None
        place = hashlib.sha256(block.exit.encode()).hexdigest()[:12]
        return self.task.settings.resume / f"{self.key}.{place}.npz"


def key_of(task: ReconstructionTask, schemes: Mapping[str, Scheme]) -> str:
    """Digest of everything that a block depends on: the model, the plan, the data and the settings.

    Args:
        task: Models, weights, data and settings.
        schemes: Schemes of all weights of the plan, by name.

    Returns:
        16 hexadecimal digits.
    """
    settings = task.settings
    digest = hashlib.sha256(task.model.SerializeToString(deterministic=True))
    digest.update(repr(sorted((name, str(scheme)) for name, scheme in schemes.items())).encode())
    digest.update(f"{_VERSION} {settings.seed} {settings.iterations} {task.learned}".encode())
    for feed in task.feeds:
        for name in sorted(feed):
            digest.update(f"{name} {feed[name].dtype} {feed[name].shape}".encode())
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()[:16]
