"""Options of activations on 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mixquant_onnx.config.option import option
from mixquant_onnx.errors import OptionError

Activations = Literal["float", "8", "dynamic"]
Cpu = Literal["any", "vnni"]
RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
Purpose = Literal["speed", "size", "memory"]
Ranges = Literal["auto", RangeMethod]

INTEGER_FROM_ORT = (1, 25)
"""The first onnxruntime on which integer execution was tested (docs/research/activations.md)."""


def _activations(value: object) -> str:
    text = str(value)
    if text not in ("float", "8", "dynamic"):
        raise OptionError(f"--activations '{text}' is not known; choose 8, dynamic, or float for none")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationOptions:
    """Whether layers run on integer kernels, and on which processors.

    `cpu`: with `any`, codes of weights are such that a pair of products fits in 16 bits, so that kernels without VNNI
    instructions give the same results as those with them.
    """

    activations: Activations = option(
        "float",
        "8: Conv, MatMul and Gemm run on 8-bit integers, with ranges of activations from --data; dynamic: MatMul and "
        "Gemm alone, with the range of each run; float: only weights are quantized",
        accepts='Literal["float", "8", "dynamic", 8]', metavar="8|dynamic|float", convert=_activations,
    )  # fmt: skip
    ranges: Ranges = option(
        "auto", "how the range of an activation is found; auto: whichever brings outputs nearest to float's on some "
        "rows of --data",
        keyword="activation_ranges", accepts='Literal["auto", "minmax", "percentile", "mse", "entropy"]',
        choices=("auto", "minmax", "percentile", "mse", "entropy"),
    )  # fmt: skip
    cpu: Cpu = option(
        "any", "any: right on every processor; vnni: also weights of 8 bits, which overflow on processors without VNNI",
        accepts='Literal["any", "vnni"]', choices=("any", "vnni"),
    )  # fmt: skip

    optimize_for: Purpose | None = option(
        None, "speed: layers on 8-bit integers (without --data products alone); size: the smallest form of each "
        "weight; memory: low-bit kernels wherever there are any",
        flag="--for", accepts='Literal["speed", "size", "memory"] | None', choices=("speed", "size", "memory"),
    )  # fmt: skip
    guard: bool = option(
        True, "no layer is kept in float for the accuracy of outputs", flag="--no-guard", accepts="bool", kind="off",
    )  # fmt: skip

    @property
    def integer(self) -> bool:
        """Whether layers run on integer kernels."""
        return self.activations != "float"
