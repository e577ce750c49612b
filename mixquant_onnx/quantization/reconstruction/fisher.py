"""How strongly the network's output reacts to each value at the exits of the blocks (the Fisher weights of BRECQ)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator
from mixquant_onnx.runtime.session import Feed

MOST_VALUES = 1 << 28
_DRAWS = 4


def importances(model: ModelProto, exits: Sequence[str], feeds: Sequence[Feed], seed: int) -> dict[str, Tensor]:
    """(1 + |g| / mean |g|) / 2 for every value at `exits`, rows of all feeds along the first axis.

    g^2 is the diagonal of J^T J, J the derivative of the first output, drawn by random directions of it; raw squares
    do harm (the largest few decide all). Empty where the model has an operator that torch lacks here.
    """
    try:
        program = Program(list(model.graph.node))
        constants = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in model.graph.initializer}
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
    """Mean squared derivative at each exit; each is made to start a graph of its own, so nothing else is kept."""
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
