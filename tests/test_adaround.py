"""AdaRound on second moments against the paper's loss, its gradient by torch and its optimizer Adam."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from mixquant_onnx.quantization.rounding import adaround
from mixquant_onnx.quantization.rounding.objective import Problem, Rows

ITERATIONS, WARM, RATE, STRENGTH = 500, 100, 0.1, 0.3


def problem(bits: int, dead: bool = False) -> Problem:
    """Two groups of 12 rows; a scale for each row and a zero point for each weight."""
    random = np.random.default_rng(bits)
    inputs = np.maximum(random.standard_normal((2, 300, 20)) @ random.standard_normal((2, 20, 20)) + 0.5, 0)
    matrix = inputs.transpose(0, 2, 1) @ inputs / 300 + 0.02 * np.eye(20)
    if dead:
        matrix[1] = 0
    target = random.standard_normal((2, 12, 20)) * np.geomspace(0.02, 0.2, 12)[:, None]
    highest = (1 << bits) - 1
    scale = np.ptp(target, axis=2, keepdims=True) / highest * 0.8
    zero = np.rint(-target.min(axis=2, keepdims=True) / scale).clip(0, highest) + np.zeros(target.shape)
    return Problem(
        target=target.astype(np.float32), scale=scale.astype(np.float32), zero_point=zero.astype(np.float32),
        highest=highest, matrix=matrix.astype(np.float32),
    )  # fmt: skip


def by_autodiff(given: Problem) -> Rows:
    """Equations 21 to 25 of the paper; the loss of a row in units of its mean rounding error."""
    target, scale, zero, matrix = (
        torch.tensor(np.broadcast_to(part, like.shape).astype(np.float64))
        for part, like in (
            (given.target, given.target), (given.scale, given.target), (given.zero_point, given.target),
            (given.matrix, given.matrix),
        )
    )  # fmt: skip
    assert isinstance(given.highest, int)
    below = torch.minimum(torch.maximum(torch.floor(target / scale), -zero), given.highest - zero)
    share = (target / scale - below).clamp(0.01, 0.99)
    unit = (scale**2 * matrix.diagonal(dim1=1, dim2=2)[:, None, :]).mean(dim=2, keepdim=True)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    hidden = (-torch.log(1.2 / (share + 0.1) - 1)).requires_grad_()
    optimizer = torch.optim.Adam([hidden], lr=RATE)
    for step in range(1, ITERATIONS + 1):
        up = (1.2 * torch.sigmoid(hidden) - 0.1).clamp(0, 1)
        error = (below + up) * scale - target
        loss = ((error @ matrix) * error / unit).sum()
        if step > WARM:
            beta = 2 + 0.5 * 18 * (1 + math.cos(math.pi * (step - WARM) / (ITERATIONS - WARM)))
            loss = loss + STRENGTH * (1 - (2 * up - 1).abs() ** beta).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    room = below < given.highest - zero
    chosen = below + (room & (hidden.detach() > 0))
    return np.asarray((chosen * scale).numpy(), np.float32)


@pytest.mark.parametrize(("bits", "dead"), [(2, False), (4, True)])
def test_weights_are_rounded_as_autodiff_and_adam_would(bits: int, dead: bool) -> None:
    torch.set_num_threads(1)
    given = problem(bits, dead)
    found, wanted = adaround.solve(given), by_autodiff(given)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert np.mean(np.abs(found - wanted) <= 1e-3 * given.scale) >= 0.996
    assert (found != given.rounded()).any()
