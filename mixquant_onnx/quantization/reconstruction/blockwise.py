"""The layers of a plan that are quantized block by block (method brecq), as the extra `reconstruct` does it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from onnx import ModelProto

from mixquant_onnx.config.stages import RoundingOptions
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.errors import writing
from mixquant_onnx.model.blocks import Block, find_blocks
from mixquant_onnx.numerics.scheme import Quantized
from mixquant_onnx.planning.planned import Planned
from mixquant_onnx.quantization.reconstruction.outcome import Outcome
from mixquant_onnx.quantization.weight import RECONSTRUCTED

_WAY = 3
"""Counts up where blocks are reconstructed in another way, so that older ones are not taken up."""

_PARTS = ("codes", "scale", "zero_point")


class Blockwise:
    """Blocks in the order of the graph; what fits none, or cannot be reconstructed, is left to its single layers."""

    def __init__(
        self, planned: Planned, current: ModelProto, calibration: Calibration, settings: RoundingOptions
    ) -> None:
        plan = planned.plan
        wanted = [name for name, scheme in plan.sites.items() if scheme.method == RECONSTRUCTED]
        self._planned, self._settings = planned, settings
        self._blocks: dict[str, Block] = {}
        self._failed: dict[str, str] = {}
        self._losses: dict[str, Outcome] = {}
        self._taken_up = 0
        self._alone: list[str] = []
        self._runner: Any = None
        if not wanted:
            return
        from mixquant_onnx.quantization.reconstruction.brecq import Runner

        blocks = find_blocks(planned.loaded.model, planned.sites, wanted)
        self._blocks = {name: block for block in blocks for name in block.sites}
        self._alone = [name for name in wanted if name not in self._blocks]
        self._runner = Runner(
            planned.loaded.model, current, planned.sites, blocks, calibration.feeds, calibration.learned, settings
        )
        self._key = _key(planned, calibration, settings) if settings.resume is not None else ""

    def __contains__(self, name: str) -> bool:
        return name in self._blocks

    def members(self, name: str) -> tuple[str, ...]:
        """All weights of the block of `name`."""
        return self._blocks[name].sites

    def kept(self, name: str) -> dict[str, Quantized] | None:
        """What an earlier run made of the block of `name`."""
        file, block = self._file(name), self._blocks[name]
        found = None if file is None else _read(file, block, self._planned)
        if found is None:
            return None
        made, self._losses[block.exit] = found
        self._taken_up += 1
        self._runner.pass_by(block)
        return made

    def told(self, name: str) -> str:
        """What became of the block of `name`, in a few words."""
        loss = self._losses.get(self._blocks[name].exit)
        return "" if loss is None else f": error {loss.before:.3g} -> {loss.after:.3g}"

    def reconstruct(self, name: str, starts: Mapping[str, Quantized]) -> dict[str, Quantized] | None:
        """Codes for all weights of the block of `name`, from `starts`, which have not seen what is held back.

        None where nothing is gained, or it cannot be done, with a note of why.
        """
        from mixquant_onnx.quantization.reconstruction.brecq import Misfit

        block = self._blocks[name]
        try:
            made, self._losses[block.exit] = self._runner.reconstruct(block, starts)
        except Misfit as reason:
            self._failed[block.exit] = str(reason)
            return None
        return None if made is None else dict(made)

    def keep(self, name: str, made: Mapping[str, Quantized]) -> None:
        """What became of the block of `name`, for a later run."""
        file, loss = self._file(name), self._losses.get(self._blocks[name].exit)
        if file is not None and loss is not None:
            _write(file, made, loss)

    def _file(self, name: str) -> Path | None:
        if self._settings.resume is None:
            return None
        place = hashlib.sha256(self._blocks[name].exit.encode()).hexdigest()[:12]
        return self._settings.resume / f"{self._key}.{place}.npz"

    def notes(self) -> tuple[str, ...]:
        """What the user should know: losses before and after, weights left open, blocks that did not work."""
        notes = []
        if self._alone:
            notes.append(
                f"{len(self._alone)} weights are in no block ('{self._alone[0]}'): reconstructed alone (adaround)"
            )
        if self._taken_up:
            notes.append(
                f"{self._taken_up} of {len(set(self._blocks.values()))} blocks are those of an earlier run, "
                f"from {self._settings.resume}"
            )
        if self._losses:
            losses = list(self._losses.values())
            before, after = sum(loss.before for loss in losses), sum(loss.after for loss in losses)
            place, worst = max(self._losses.items(), key=lambda item: item[1].after / max(item[1].before, 1e-30))
            open_share = max(loss.still_open for loss in losses)
            taken = sum(loss.after < loss.before for loss in losses)
            notes.append(
                f"{taken} of {len(losses)} blocks are better reconstructed than layer by layer: squared error "
                f"{before:.4g} -> {after:.4g}; least gain at '{place}' ({worst.before:.4g} -> {worst.after:.4g}); "
                f"at most {open_share:.2%} of a block's weights were left open"
            )
        for place, reason in self._failed.items():
            notes.append(f"the block that ends at '{place}' is quantized layer by layer: {reason}")
        return tuple(notes)


def _key(planned: Planned, calibration: Calibration, settings: RoundingOptions) -> str:
    """Of all that a block depends on: the model, the plan, the data and the settings."""
    digest = hashlib.sha256(planned.loaded.model.SerializeToString(deterministic=True))
    digest.update(repr(sorted((n, str(s)) for n, s in planned.plan.sites.items())).encode())
    digest.update(f"{_WAY} {settings.seed} {settings.iterations} {calibration.learned}".encode())
    for feed in calibration.feeds:
        for name in sorted(feed):
            digest.update(f"{name} {feed[name].dtype} {feed[name].shape}".encode())
            digest.update(np.ascontiguousarray(feed[name]).tobytes())
    return digest.hexdigest()[:16]


def _write(file: Path, made: Mapping[str, Quantized], loss: Outcome) -> None:
    parts = {f"{part}/{name}": getattr(q, part) for name, q in made.items() for part in _PARTS}
    parts |= {f"loss/{name}": np.array(value) for name, value in asdict(loss).items()}
    with writing(file):
        unfinished = file.with_suffix(".part")
        with unfinished.open("wb") as stream:
            np.savez(stream, **parts)
        unfinished.replace(file)


def _read(file: Path, block: Block, planned: Planned) -> tuple[dict[str, Quantized], Outcome] | None:
    """What `_write` kept of a block; None where there is nothing, or not all of it."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            found = {name: {part: kept[f"{part}/{name}"] for part in _PARTS} for name in block.sites}
            loss = Outcome(**{field.name: kept[f"loss/{field.name}"].item() for field in fields(Outcome)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    sites, schemes = planned.sites, planned.plan.sites
    if any(found[n]["codes"].shape != sites[n].site.shape for n in block.sites):
        return None
    made = {
        name: Quantized(scheme=schemes[name], layout=sites[name].site.layout, dtype=sites[name].site.dtype, **parts)
        for name, parts in found.items()
    }
    return made, loss
