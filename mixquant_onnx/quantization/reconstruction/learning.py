"""BRECQ (Li et al. 2021, arXiv 2102.05426): the rounding of all weights of a block, learned on the block's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixquant_onnx.quantization.reconstruction.outcome import Outcome
from mixquant_onnx.quantization.reconstruction.soft_rounding import SoftWeight
from mixquant_onnx.quantization.reconstruction.torch_operators import Program

_RATE = 0.1
_WARM = 0.2
"""Share of the iterations before the regulariser sets in."""
_BETA = (20.0, 2.0)
_STRENGTH = 1.0
"""Weight of the regulariser, in units of the loss's mean gradient at round to nearest."""

_NEAR = (0.1, 1.0)
"""Share of a change's own error that is added to the loss, so that weights of no effect stay as they are; the next one
where what was learned does worse on other rows. Without it Adam turns every weight, and 300 steps on EfficientNet-Lite0
end above what they started from, on the very rows that they learn from."""

_DRAWS = 16

_HELD = 8
"""Every how many rows one is kept from learning where none are held back: few rows are soon learned by heart."""

_BATCH = (4, 16)
"""Fewest and most rows of a step."""

_VALUES = 1 << 19
"""Values that the rows of a step take and give, about."""

_LOOK = 25
"""Iterations after which it is looked whether all weights are decided: then nothing moves any more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """What a block takes and gives: rows along the first axis of all that is in `rows`; `fixed` is the same for all.

    `target` is the float model's output for the same rows; `importance` a factor for its squared errors, or None.
    The first `learned` rows are to learn from, the others to judge what was learned.
    """

    rows: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    target: Tensor
    learned: int
    importance: Tensor | None = None

    @property
    def count(self) -> int:
        return int(self.target.shape[0])

    @property
    def at_once(self) -> int:
        """Rows of a step, fewer where each holds much: an image of 112 x 112 is 12544 samples by itself."""
        held = sum(value[0].numel() for value in self.rows.values()) + self.target[0].numel()
        return max(_BATCH[0], min(_BATCH[1], _VALUES // max(held, 1)))

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
    constants: Mapping[str, Tensor], samples: Samples, iterations: int, seed: int,
) -> Outcome:  # fmt: skip
    """Learns the rounding of `soft` (by the names of their tensors) so that `output` comes close to the target.

    `start`: the weights as they are quantized already, which the outcome is compared with.
    """
    random = torch.Generator().manual_seed(seed)
    learned, judged = _rows(samples)
    before = _error(program, output, start, constants, samples, judged)
    _set_units(program, output, soft, constants, samples)
    curvatures = _curvatures(program, output, start, constants, samples, learned, random)
    steps = 0
    for near in _NEAR:
        for weight in soft.values():
            weight.begin()
        steps += _descend(
            program, output, soft, constants, samples, learned, iterations, random,
            {name: near * curvature for name, curvature in curvatures.items()},
        )  # fmt: skip
        hard = {name: weight.at(weight.decided()) for name, weight in soft.items()}
        after = _error(program, output, hard, constants, samples, judged)
        if after < before:
            break
    still_open = float(np.mean([weight.open_share() for weight in soft.values()]))
    return Outcome(before=before, after=after, still_open=still_open, iterations=steps)


def _descend(
    program: Program, output: str, soft: Mapping[str, SoftWeight], constants: Mapping[str, Tensor], samples: Samples,
    learned: Tensor, iterations: int, random: torch.Generator, curvatures: Mapping[str, Tensor],
) -> int:  # fmt: skip
    """Learns from the rows `learned`; the iterations that it took."""
    adam = torch.optim.Adam([weight.hidden for weight in soft.values()], lr=_RATE)
    warm = int(_WARM * iterations)
    step = 0
    for step in range(iterations):
        index = _drawn(learned, samples.at_once, random)
        given, target, importance = samples.batch(index)
        weights = {name: weight.at(weight.up()) for name, weight in soft.items()}
        loss = _loss(program.run({**constants, **given, **weights}, [output])[0], target, importance)
        loss = loss + sum((weight.away(curvatures[name]) for name, weight in soft.items()), torch.zeros(()))
        if step >= warm:
            progress = (step - warm) / max(iterations - warm, 1)
            beta = _BETA[1] + 0.5 * (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * progress))
            loss = loss + sum((weight.indecision(beta) for weight in soft.values()), torch.zeros(()))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step >= warm and step % _LOOK == 0 and all(weight.open_share() == 0 for weight in soft.values()):
            break
    return step + 1


def _drawn(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (min(count, len(rows)),), generator=random)]


def _curvatures(
    program: Program, output: str, start: Mapping[str, Tensor], constants: Mapping[str, Tensor], samples: Samples,
    learned: Tensor, random: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """How fast the loss grows with the square of each weight's change alone: the diagonal of J^T J, J the derivative
    of the output, drawn by random directions of it."""
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    for _ in range(_DRAWS):
        given, _, importance = samples.batch(_drawn(learned, samples.at_once, random))
        weights = {name: value.clone().requires_grad_(True) for name, value in start.items()}
        found = program.run({**constants, **given, **weights}, [output])[0]
        direction = torch.randn(found.shape, generator=random)
        if importance is not None:
            direction = direction * importance.sqrt()
        places = found.numel() / found.shape[channel_axis(found)]
        gradients = torch.autograd.grad(found, list(weights.values()), direction)
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient**2 / (_DRAWS * places)
    return total


def _rows(samples: Samples) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and to judge by; of at least 8."""
    every = torch.arange(samples.count)
    held = every >= samples.learned if samples.learned < samples.count else every % _HELD == _HELD - 1
    return every[~held], every[held]


def _error(
    program: Program, output: str, weights: Mapping[str, Tensor], constants: Mapping[str, Tensor], samples: Samples,
    rows: Tensor,
) -> float:  # fmt: skip
    total = 0.0
    with torch.no_grad():
        for index in torch.split(rows, samples.at_once):
            given, target, importance = samples.batch(index)
            found = program.run({**constants, **given, **weights}, [output])[0]
            total += float(_loss(found, target, importance)) * len(index)
    return total / len(rows)


def _set_units(
    program: Program, output: str, soft: Mapping[str, SoftWeight], constants: Mapping[str, Tensor], samples: Samples,
) -> None:  # fmt: skip
    """The unit of each regulariser: the mean derivative by the rounding, where all weights are at a level."""
    ups = {name: (weight.up().detach() > 0.5).float().requires_grad_(True) for name, weight in soft.items()}
    given, target, importance = samples.batch(torch.arange(min(4 * samples.at_once, samples.count)))
    weights = {name: soft[name].at(up) for name, up in ups.items()}
    _loss(program.run({**constants, **given, **weights}, [output])[0], target, importance).backward()  # type: ignore[no-untyped-call]
    for name, up in ups.items():
        if up.grad is None:
            raise RuntimeError(f"'{name}' does not reach what the block gives")
        soft[name].unit = _STRENGTH * float(up.grad.abs().mean())
