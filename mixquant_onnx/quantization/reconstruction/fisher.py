"""Importance of the values at the exits of blocks for the network's output.

Source:
    The Fisher weights of BRECQ, Li et al. 2021, arXiv 2102.05426.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from mixquant_onnx.model.tensor_data import values_of
from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator
from mixquant_onnx.runtime.session import Feed

MOST_VALUES = 1 << 28
"""Most importances in memory, 1 GiB of float32; beyond, all are 1."""

_DRAWS = 4
"""Random directions for the estimate of derivatives."""


def importances(model: ModelProto, exits: Sequence[str], feeds: Sequence[Feed], seed: int) -> dict[str, Tensor]:
    """Importance of each value at the exits of blocks: (1 + |g| / mean |g|) / 2.

    g^2 is the diagonal of J^T J, J the derivative of the first output, estimated from random directions of it. Squares
    themselves are harmful: the largest few dominate the loss.

    Args:
        model: The float model.
        exits: Names of values.
        feeds: Batches: inputs of the model by name.
        seed: Seed of the directions.

    Returns:
        By name, with the samples of all batches along the first axis. Empty where torch lacks an operator of the model,
        or there are more than MOST_VALUES.
    """
    try:
        program = Program(list(model.graph.node))
        constants = {t.name: torch.from_numpy(np.array(values_of(t))) for t in model.graph.initializer}
        random = torch.Generator().manual_seed(seed)
        found: dict[str, list[Tensor]] = {name: [] for name in exits}
        output = model.graph.output[0].name
        total = 0
        for feed in feeds:
            given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}
            squares = _squares(program, {**constants, **given}, exits, output, random)
            for name, square in zip(exits, squares, strict=True):
                found[name].append(square.sqrt())
                total += square.numel()
            if total > MOST_VALUES:
                return {}
    except (UnknownOperator, RuntimeError, KeyError, TypeError, ValueError, IndexError):
        return {}
    joined = {name: torch.cat(parts) for name, parts in found.items() if _fit(parts)}
    return {name: 0.5 + 0.5 * value / value.mean().clamp(min=1e-30) for name, value in joined.items()}


def _fit(parts: Sequence[Tensor]) -> bool:
    return all(part.ndim > 1 and part.shape[1:] == parts[0].shape[1:] for part in parts)


def _squares(
    program: Program, values: dict[str, Tensor], exits: Sequence[str], output: str, random: torch.Generator
) -> list[Tensor]:
    """Mean squared derivative at each exit.

    Each exit starts a graph of its own, so that nothing else stays in memory.
    """
    taps: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        taps[name] = value.requires_grad_(True) if not value.requires_grad else value
        taps[name].retain_grad()
        return taps[name]

    out = program.run(values, [output], dict.fromkeys(exits, tap))[0]
    total = [torch.zeros_like(taps[name]) for name in exits]
    for _ in range(_DRAWS):
        direction = torch.randn(out.shape, generator=random)
        grads = torch.autograd.grad(out, [taps[name] for name in exits], direction, retain_graph=True)
        total = [t + g.detach() ** 2 for t, g in zip(total, grads, strict=True)]
    return [t / _DRAWS for t in total]
