"""What the user chose for the file: the runtime, its oldest release, and which forms may be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Target = str
"""Name of a row of `targets.table.TARGETS`."""

Fused = Literal["auto", "always", "never"]

FUSED_PAYS_FROM = (1, 25)
"""The first onnxruntime whose MatMulNBits fusion takes 8 bits and is not slower than float (docs/releases.md)."""

SMALL_INTS_FROM = (1, 21)
"""The first onnxruntime with Add and Sub on 8-bit integers: decoders are smaller and load faster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FormOptions:
    """How weights are written.

    Attributes:
        target: the runtime to write for, a row of `targets.table.TARGETS`.
        fused: which large MatMul and Gemm weights run on the runtime's low-bit kernels. `auto`: those that see one
            row by the model's own shapes, where the kernels are faster on every processor tried; `always`: all of
            them, which is faster on processors with VNNI and up to 1.7 times slower on others (docs/kernels.md);
            `never`: all are folded.
        native_types: whether to use only widths that have an ONNX type.
        min_ort: the oldest onnxruntime that the file is for, (major, minor).
    """

    target: Target = "ort"
    fused: Fused = "auto"
    native_types: bool = False
    min_ort: tuple[int, int] = FUSED_PAYS_FROM

    @property
    def small_ints(self) -> bool:
        """Whether decoders may add and subtract 8-bit integers."""
        return self.min_ort >= SMALL_INTS_FROM
