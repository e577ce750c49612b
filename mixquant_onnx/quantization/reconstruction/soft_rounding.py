"""A weight whose rounding, up or down, is being learned.

Source:
    AdaRound, Nagel et al. 2020, arXiv 2004.10568, equations 22 to 24.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.numerics.integers import levels
from mixquant_onnx.numerics.rows import effective_grid, expand_params
from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.quantization.rounding.adaround import STRETCH

_DECIDED = 0.5
"""Initial position: this share of the way from the float value to the current level. A half lets every weight move."""


class SoftWeight:
    """A weight whose elements lie between two neighbouring levels.

    The levels of an element are its current one, and the next towards its float value.

    Args:
        weight: The float weight.
        q: The same weight quantized; gives scales, zero points and the initial levels.
    """

    def __init__(self, weight: NDArray[np.float32], q: QuantizedTensor) -> None:
        grid = effective_grid(q.codes.shape, q.layout, q.scheme.grid)

        def spread(params: FloatArray) -> Tensor:
            wide = expand_params(params, q.codes.shape, q.layout, grid).astype(np.float32)
            return torch.from_numpy(np.array(np.broadcast_to(wide, q.codes.shape)))

        self._q = q
        self._scale, self._zero = spread(q.scale), spread(q.zero_point)
        self._highest = float(levels(q.scheme.bits))
        own = torch.from_numpy(np.array(weight, np.float32)) / self._scale + self._zero
        code = torch.from_numpy(q.codes.astype(np.float32))
        above = ((own >= code) & (code < self._highest)) | (code == 0)
        self._code, self._floor = code, torch.where(above, code, code - 1)
        place = (own - self._floor).clamp(0, 1)
        low, high = STRETCH
        start = (_DECIDED * (~above).float() + (1 - _DECIDED) * place).clamp(0.01, 0.99)
        self._start = torch.logit((start - low) / (high - low))
        self.unit = 1.0
        self.begin()

    def begin(self) -> None:
        """Reset to the initial position."""
        self.hidden = self._start.clone().requires_grad_(True)

    def up(self) -> Tensor:
        """The rectified sigmoid h (equation 23): position between the lower level, 0, and the upper, 1.

        Returns:
            A tensor of the weight's shape, differentiable by `hidden`.
        """
        low, high = STRETCH
        return (torch.sigmoid(self.hidden) * (high - low) + low).clamp(0, 1)

    def at(self, up: Tensor) -> Tensor:
        """The dequantized weight at a position.

        Args:
            up: Position of each element between its levels, 0 to 1.

        Returns:
            A tensor of the weight's shape.
        """
        return ((self._floor + up).clamp(max=self._highest) - self._zero) * self._scale

    def away(self, curvature: Tensor) -> Tensor:
        """Sum of `curvature` x squared distance from the initial levels.

        Args:
            curvature: Of the weight's shape.

        Returns:
            A scalar, differentiable by `hidden`.
        """
        return (curvature * ((self._floor + self.up() - self._code) * self._scale) ** 2).sum()

    def indecision(self, beta: float) -> Tensor:
        """The regulariser: sum of 1 - |2 h - 1|^beta (equation 24), in units of the loss.

        Args:
            beta: Exponent.

        Returns:
            A scalar, differentiable by `hidden`.
        """
        return self.unit * (1 - (2 * self.up() - 1).abs().pow(beta)).sum()

    def open_share(self) -> float:
        """Share of the elements that are between levels."""
        up = self.up()
        return float(((up > 0.01) & (up < 0.99)).float().mean())

    def decided(self) -> Tensor:
        """`up` rounded to 0 or 1."""
        return (self.hidden.detach() > 0).float()

    def hardened(self) -> QuantizedTensor:
        """The quantized weight with the learned codes."""
        codes = (self._floor + self.decided()).clamp(max=self._highest).to(torch.uint8)
        return replace(self._q, codes=codes.numpy())
