"""How a tensor is quantized, and a quantized tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mixquant_onnx.errors import OptionError, PlanError
from mixquant_onnx.numerics.arrays import Codes, FloatArray
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid, expand_params


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How one tensor is quantized. `str()` gives a short name such as `w4.b32.minmax` that parses back.

    Attributes:
        bits: Width of the codes, 2 to 8.
        grid: Granularity of scales and zero points.
        method: Name of a row of `quantization.methods`.
        symmetric: Whether the zero point is fixed at the middle of the codes.
    """

    bits: int
    grid: Granularity
    method: str = "minmax"
    symmetric: bool = False

    def __str__(self) -> str:
        return f"w{self.bits}.{self.grid}.{self.method}" + (".sym" if self.symmetric else "")

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Parse the name of a scheme.

        Args:
            text: What `str()` of a scheme gives.

        Returns:
            The scheme.

        Raises:
            PlanError: `text` is not a scheme.
        """
        found = re.fullmatch(r"w([2-8])\.(tensor|channel|b\d+)\.([a-z0-9_]+)(\.sym)?", text)
        if not found:
            raise PlanError(f"'{text}' is not a scheme; write for example w4.channel.minmax or w5.b32.minmax")
        try:
            grid = Granularity.parse(found[2])
        except OptionError as error:
            raise PlanError(f"'{text}' is not a scheme: {error}") from error
        return cls(bits=int(found[1]), grid=grid, method=found[3], symmetric=bool(found[4]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedTensor:
    """A quantized tensor.

    Attributes:
        codes: uint8, in the shape of the weight, one code per byte.
        scale: [P, G, Q] (see `granularity`), float16 or float32 as stored.
        zero_point: uint8, [P, G, Q]; [1, 1, 1] when symmetric.
        scheme: How it was quantized.
        layout: Axes of the weight.
        dtype: NumPy name of the float type that it dequantizes to.
    """

    codes: Codes
    scale: FloatArray
    zero_point: Codes
    scheme: Scheme
    layout: WeightAxes
    dtype: str

    def dequantize(self, dtype: np.dtype[np.generic]) -> FloatArray:
        """The float weight that it represents, in the shape of the codes, as `dtype`."""
        grid = effective_grid(self.codes.shape, self.layout, self.scheme.grid)
        return dequantize(self.codes, self.scale, self.zero_point, self.layout, grid, dtype)


def dequantize(
    codes: Codes,
    scale: FloatArray,
    zero_point: Codes,
    layout: WeightAxes,
    grid: Granularity,
    dtype: np.dtype[np.generic],
) -> FloatArray:
    """(codes - zero point) x scale, in float32, then cast: the single definition of what codes mean.

    The difference is exact, an integer below 2^9.

    Args:
        codes: In the shape of the weight.
        scale: [P, G, Q].
        zero_point: [P, G, Q], or [1, 1, 1] for all.
        layout: The axes of the weight.
        grid: Granularity of `scale`, after `effective_grid`.
        dtype: Type of the result.

    Returns:
        The weight, in the shape of `codes`.

    Source:
        ONNX DequantizeLinear, opset 10 and up.
    """
    zero = expand_params(zero_point, codes.shape, layout, grid).astype(np.float32)
    step = expand_params(scale, codes.shape, layout, grid).astype(np.float32)
    return ((codes.astype(np.float32) - zero) * step).astype(dtype)
