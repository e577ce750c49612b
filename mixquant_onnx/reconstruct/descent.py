"""BRECQ (Li et al. 2021, arXiv 2102.05426): the rounding of all weights of a block, learned on the block's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixquant_onnx.reconstruct.operators import Program
from mixquant_onnx.reconstruct.outcome import Outcome
from mixquant_onnx.reconstruct.soft import SoftWeight

_RATE = 0.1
_WARM = 0.2
"""Share of the iterations before the regulariser sets in."""
_BETA = (20.0, 2.0)
_STRENGTH = 1.0
"""Weight of the regulariser, in units of the loss's mean gradient at round to nearest."""

_HELD = 8
"""Every how many rows one is kept from learning, to judge what was learned: few rows are soon learned by heart."""

_LOOK = 25
"""Iterations after which it is looked whether all weights are decided: then nothing moves any more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """What a block takes and gives: rows along the first axis of all that is in `rows`; `fixed` is the same for all.

    `target` is the float model's output for the same rows; `importance` a factor for its squared errors, or None.
    """

    rows: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    target: Tensor
    importance: Tensor | None = None

    @property
    def count(self) -> int:
        return int(self.target.shape[0])

    def batch(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        chosen = {name: value[index] for name, value in self.rows.items()}
        weight = None if self.importance is None else self.importance[index]
        return {**chosen, **self.fixed}, self.target[index], weight


def channel_axis(target: Tensor) -> int:
    """The axis that the loss is summed over: 1 of images, else the last."""
    return 1 if target.ndim == 4 else target.ndim - 1


def _loss(found: Tensor, target: Tensor, importance: Tensor | None) -> Tensor:
    error = (found - target) ** 2
    if importance is not None:
        error = error * importance
    return error.sum(channel_axis(target)).mean()


def learn(
    program: Program, output: str, soft: Mapping[str, SoftWeight], start: Mapping[str, Tensor],
    constants: Mapping[str, Tensor], samples: Samples, iterations: int, batch: int, seed: int,
) -> Outcome:  # fmt: skip
    """Learns the rounding of `soft` (by the names of their tensors) so that `output` comes close to the target.

    `start`: the weights as they are quantized already, which the outcome is compared with.
    """
    random = torch.Generator().manual_seed(seed)
    hidden = [weight.hidden for weight in soft.values()]
    adam = torch.optim.Adam(hidden, lr=_RATE)
    _set_units(program, output, soft, constants, samples, batch)
    learned, judged = _rows(samples.count)
    before = _error(program, output, start, constants, samples, judged, batch)
    warm = int(_WARM * iterations)
    step = 0
    for step in range(iterations):
        index = learned[torch.randint(len(learned), (min(batch, len(learned)),), generator=random)]
        given, target, importance = samples.batch(index)
        weights = {name: weight.at(weight.up()) for name, weight in soft.items()}
        loss = _loss(program.run({**constants, **given, **weights}, [output])[0], target, importance)
        if step >= warm:
            progress = (step - warm) / max(iterations - warm, 1)
            beta = _BETA[1] + 0.5 * (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * progress))
            loss = loss + sum((weight.indecision(beta) for weight in soft.values()), torch.zeros(()))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step >= warm and step % _LOOK == 0 and all(weight.open_share() == 0 for weight in soft.values()):
            break
    still_open = float(np.mean([weight.open_share() for weight in soft.values()]))
    hard = {name: weight.at((weight.hidden.detach() > 0).float()) for name, weight in soft.items()}
    after = _error(program, output, hard, constants, samples, judged, batch)
    return Outcome(before=before, after=after, still_open=still_open, iterations=step + 1)


def _rows(count: int) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and to judge by; at least 8."""
    every = torch.arange(count)
    held = every % _HELD == _HELD - 1
    return every[~held], every[held]


def _error(
    program: Program, output: str, weights: Mapping[str, Tensor], constants: Mapping[str, Tensor], samples: Samples,
    rows: Tensor, batch: int,
) -> float:  # fmt: skip
    total = 0.0
    with torch.no_grad():
        for index in torch.split(rows, batch):
            given, target, importance = samples.batch(index)
            found = program.run({**constants, **given, **weights}, [output])[0]
            total += float(_loss(found, target, importance)) * len(index)
    return total / len(rows)


def _set_units(
    program: Program, output: str, soft: Mapping[str, SoftWeight], constants: Mapping[str, Tensor], samples: Samples,
    batch: int,
) -> None:  # fmt: skip
    """The unit of each regulariser: the mean derivative by the rounding, where all weights are at a level."""
    ups = {name: (weight.up().detach() > 0.5).float().requires_grad_(True) for name, weight in soft.items()}
    given, target, importance = samples.batch(torch.arange(min(4 * batch, samples.count)))
    weights = {name: soft[name].at(up) for name, up in ups.items()}
    _loss(program.run({**constants, **given, **weights}, [output])[0], target, importance).backward()  # type: ignore[no-untyped-call]
    for name, up in ups.items():
        assert up.grad is not None
        soft[name].unit = _STRENGTH * float(up.grad.abs().mean())
