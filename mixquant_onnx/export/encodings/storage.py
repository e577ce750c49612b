"""What a target chooses for a weight: an encoding with its parameters, and what there is to tell about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mixquant_onnx.export.encodings.builder import Encoded, FreshName
from mixquant_onnx.numerics.scheme import Quantized

Release = tuple[int, int]
"""Major and minor version of a runtime."""

EVERY_RELEASE: Release = (0, 0)

BROADCASTING_FROM_OPSET = 7
"""The first opset with NumPy broadcasting, and the first that ONNX Runtime runs."""

SMALL_INTS_FROM_OPSET = 14
"""The first opset with Add and Sub of 8-bit integers (Add-14)."""

NEVER = 1 << 30
"""In place of an opset: no opset has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage(ABC):
    """How one weight is stored. Each encoding is a subclass with its parameters as fields.

    Attributes:
        bits: width of the codes.
        opset: the first opset that has the best form of this storage; the model is raised to it where it can be.
        needs: the first opset at which it can be used at all.
        fused: whether ONNX Runtime multiplies by the codes themselves, in a kernel that takes MatMul alone.
    """

    bits: int
    opset: int = BROADCASTING_FROM_OPSET
    needs: int = BROADCASTING_FROM_OPSET
    fused: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What summaries show."""

    @abstractmethod
    def encode(self, q: Quantized, output: str, opset: int, fresh: FreshName) -> Encoded:
        """Tensors and nodes that give the weight.

        Args:
            q: the weight, or its `Outline`, of which only sizes are asked.
            output: name of the value that held the weight; another name is taken where the axes come out swapped.
            opset: of the model, at least `needs`.
            fresh: gives a name that is not in use.
        """

    def loads_from(self, opset: int) -> Release:
        """The oldest onnxruntime that loads it in a model of `opset`, as far as this storage decides that."""
        return EVERY_RELEASE

    def not_slower_from(self) -> Release | None:
        """The oldest onnxruntime that runs it as fast as the float weight; None where none does."""
        return EVERY_RELEASE

    @property
    def needs_vnni(self) -> bool:
        """Whether it is as fast as float only on processors with VNNI."""
        return False


def at_opset(storages: Sequence[Storage], opset: int) -> Storage:
    """The first of `storages`, the best first, that can be used at `opset`; the last where none can."""
    return next((storage for storage in storages if storage.needs <= opset), storages[-1])
