"""The rounding of all weights of a block, learned together on the block's output.

Source:
    BRECQ, Li et al. 2021, arXiv 2102.05426; the parametrisation of each weight is AdaRound's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixquant_onnx.quantization.reconstruction.reconstructor import Outcome
from mixquant_onnx.quantization.reconstruction.soft_rounding import SoftWeight
from mixquant_onnx.quantization.reconstruction.torch_operators import Program
from mixquant_onnx.quantization.rounding.adaround import RATE, annealed_exponent, warm_up

_STRENGTH = 1.0
"""Weight of the regulariser, in units of the loss's mean gradient at round to nearest."""

_NEAR = (0.1, 1.0)
"""Strengths of a proximal term (the squared change of each weight) in the loss, so that weights without effect do not
change; the second is tried where the first does worse on held-out samples. Without it Adam moves every weight, and 300
steps on EfficientNet-Lite0 end above the initial loss on the training samples (docs/research/experiment-brecq.md).
"""

_DRAWS = 16
"""Random directions for the estimate of the curvature."""

_HELD = 8
"""One of this many samples is held out, where none are held out already, to detect overfitting."""

_BATCH = (4, 16)
"""Fewest and most samples per step."""

_VALUES = 1 << 19
"""Approximate number of values in a step, inputs and outputs together: bounds memory."""

_LOOK = 25
"""Iterations between checks whether all weights are at a level: then gradients are 0. Affects speed alone."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """Inputs and target outputs of a block.

    Attributes:
        rows: Inputs by name, with samples along the first axis.
        fixed: Inputs that are the same for all samples.
        target: The float model's output for the same samples [count, ...].
        learned: Number of leading samples for learning; the others are held out.
        importance: A factor for each squared error, of the shape of `target`; None for 1.
    """

    rows: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    target: Tensor
    learned: int
    importance: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.target.shape[0])

    @property
    def at_once(self) -> int:
        """Samples per step, fewer where each is large: an image of 112 x 112 has 12544 positions by itself."""
        held = sum(value[0].numel() for value in self.rows.values()) + self.target[0].numel()
        return max(_BATCH[0], min(_BATCH[1], _VALUES // max(held, 1)))

    def batch(self, index: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """The samples at some positions.

        Args:
            index: Positions.

        Returns:
            Inputs by name, targets, and importance or None.
        """
        chosen = {name: value[index] for name, value in self.rows.items()}
        weight = None if self.importance is None else self.importance[index]
        return {**chosen, **self.fixed}, self.target[index], weight


def channel_axis(target: Tensor) -> int:
    """The axis that the loss is summed over: 1 for images, else the last."""
    return 1 if target.ndim == 4 else target.ndim - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockLoss:
    """The error of a block's output as a function of its weights.

    Attributes:
        program: The block's nodes.
        output: Name of its output.
        constants: Its stored tensors that are not learned, by name.
        samples: Inputs and targets.
    """

    program: Program
    output: str
    constants: Mapping[str, Tensor]
    samples: Samples

    def found(self, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Tensor:
        """The block's output.

        Args:
            weights: Weights by tensor name.
            given: Inputs by name.

        Returns:
            The output [samples, ...].
        """
        return self.program.run({**self.constants, **given, **weights}, [self.output])[0]

    def on(self, weights: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """Differentiable loss of some samples.

        Args:
            weights: Weights by tensor name.
            index: Positions of the samples.

        Returns:
            Mean squared error, summed over channels, each square multiplied by its importance.
        """
        given, target, importance = self.samples.batch(index)
        error = (self.found(weights, given) - target) ** 2
        if importance is not None:
            error = error * importance
        return error.sum(channel_axis(target)).mean()

    def error(self, weights: Mapping[str, Tensor], rows: Tensor) -> float:
        """The loss as a number, without gradients.

        Args:
            weights: Weights by tensor name.
            rows: Positions of the samples.

        Returns:
            Mean over the samples.
        """
        total = 0.0
        with torch.no_grad():
            for index in torch.split(rows, self.samples.at_once):
                total += float(self.on(weights, index)) * len(index)
        return total / len(rows)


def learn(
    loss: BlockLoss, soft: Mapping[str, SoftWeight], start: Mapping[str, Tensor], iterations: int, seed: int
) -> Outcome:
    """Learn the rounding of a block's weights that brings its output close to the target.

    Args:
        loss: The error of the block's output.
        soft: Its weights by tensor name; changed in place.
        start: The weights as quantized before, for comparison.
        iterations: Most steps of Adam.
        seed: Seed of the choice of samples and directions.

    Returns:
        The errors before and after, on held-out samples.

    Raises:
        RuntimeError: From torch, or where a weight has no effect on the output.
    """
    random = torch.Generator().manual_seed(seed)
    learned, judged = _rows(loss.samples)
    before = loss.error(start, judged)
    _set_units(loss, soft)
    curvatures = _curvatures(loss, start, learned, random)
    steps, after = 0, before
    for near in _NEAR:
        for weight in soft.values():
            weight.begin()
        proximal = {name: near * curvature for name, curvature in curvatures.items()}
        steps += _descend(loss, soft, learned, iterations, random, proximal)
        after = loss.error({name: weight.at(weight.decided()) for name, weight in soft.items()}, judged)
        if after < before:
            break
    still_open = float(np.mean([weight.open_share() for weight in soft.values()]))
    return Outcome(before=before, after=after, still_open=still_open, iterations=steps)


def _descend(
    loss: BlockLoss, soft: Mapping[str, SoftWeight], learned: Tensor, iterations: int, random: torch.Generator,
    proximal: Mapping[str, Tensor],
) -> int:  # fmt: skip
    """Run Adam on the samples `learned`, with `proximal` curvatures; returns the number of iterations."""
    adam = torch.optim.Adam([weight.hidden for weight in soft.values()], lr=RATE)
    warm = warm_up(iterations)
    step = 0
    for step in range(iterations):
        index = _drawn(learned, loss.samples.at_once, random)
        total = loss.on({name: weight.at(weight.up()) for name, weight in soft.items()}, index)
        total = total + sum((weight.away(proximal[name]) for name, weight in soft.items()), torch.zeros(()))
        if step >= warm:
            beta = annealed_exponent(step, iterations)
            total = total + sum((weight.indecision(beta) for weight in soft.values()), torch.zeros(()))
        adam.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        if step >= warm and step % _LOOK == 0 and all(weight.open_share() == 0 for weight in soft.values()):
            break
    return step + 1


def _drawn(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (min(count, len(rows)),), generator=random)]


def _curvatures(
    loss: BlockLoss, start: Mapping[str, Tensor], learned: Tensor, random: torch.Generator
) -> dict[str, Tensor]:
    """Second derivative of the loss along each weight alone, by name.

    The diagonal of J^T J, J the derivative of the output, estimated from random directions of it.
    """
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    for _ in range(_DRAWS):
        given, _, importance = loss.samples.batch(_drawn(learned, loss.samples.at_once, random))
        weights = {name: value.clone().requires_grad_(True) for name, value in start.items()}
        found = loss.found(weights, given)
        direction = torch.randn(found.shape, generator=random)
        if importance is not None:
            direction = direction * importance.sqrt()
        places = found.numel() / found.shape[channel_axis(found)]
        gradients = torch.autograd.grad(found, list(weights.values()), direction)
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient**2 / (_DRAWS * places)
    return total


def _rows(samples: Samples) -> tuple[Tensor, Tensor]:
    """Positions of samples for learning, and of held-out samples; at least 8 in total."""
    every = torch.arange(samples.count)
    held = every >= samples.learned if samples.learned < samples.count else every % _HELD == _HELD - 1
    return every[~held], every[held]


def _set_units(loss: BlockLoss, soft: Mapping[str, SoftWeight]) -> None:
    """Set the unit of each regulariser: the mean derivative by the rounding, where all weights are at a level."""
    ups = {name: (weight.up().detach() > 0.5).float().requires_grad_(True) for name, weight in soft.items()}
    index = torch.arange(min(4 * loss.samples.at_once, loss.samples.count))
    loss.on({name: soft[name].at(up) for name, up in ups.items()}, index).backward()  # type: ignore[no-untyped-call]
    for name, up in ups.items():
        if up.grad is None:
            raise RuntimeError(f"'{name}' does not reach what the block gives")
        soft[name].unit = _STRENGTH * float(up.grad.abs().mean())
