"""The storage of a weight that a target selects: an encoding with its parameters, and its requirements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mixquant_onnx.export.encodings.builder import Encoded, FreshName
from mixquant_onnx.numerics.scheme import QuantizedTensor

Release = tuple[int, int]
"""Major and minor version of a runtime."""

EVERY_RELEASE: Release = (0, 0)
"""Older than any release."""

BROADCASTING_FROM_OPSET = 7
"""The first opset with NumPy broadcasting, and the first that ONNX Runtime runs."""

SMALL_INTS_FROM_OPSET = 14
"""The first opset with Add and Sub of 8-bit integers (Add-14)."""

NEVER = 1 << 30
"""In place of an opset: supported by no opset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage(ABC):
    """How one weight is stored. Each encoding is a subclass with its parameters as fields.

    Attributes:
        bits: Width of the codes.
        opset: The first opset that has the best form of this storage; the model is raised to it where possible.
        needs: The first opset at which it can be used at all.
        fused: Whether ONNX Runtime multiplies by the codes themselves, in a kernel that supports only MatMul.
    """

    bits: int
    opset: int = BROADCASTING_FROM_OPSET
    needs: int = BROADCASTING_FROM_OPSET
    fused: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in summaries."""

    @abstractmethod
    def encode(self, q: QuantizedTensor, output: str, opset: int, fresh: FreshName) -> Encoded:
        """Tensors and nodes that compute the weight.

        Args:
            q: The weight, or its `Outline`, when only sizes are needed.
            output: Name of the value that held the weight; a new name is used where the axes are swapped.
            opset: Opset of the model, at least `needs`.
            fresh: Gives an unused name.

        Returns:
            What replaces the weight.
        """

    def loads_from(self, opset: int) -> Release:
        """The oldest onnxruntime that loads this storage, as far as the storage determines it.

        Args:
            opset: Opset of the model.

        Returns:
            (major, minor).
        """
        return EVERY_RELEASE

    def not_slower_from(self) -> Release | None:
        """The oldest onnxruntime that runs it as fast as the float weight.

        Returns:
            (major, minor); None where no release does.
        """
        return EVERY_RELEASE

    @property
    def needs_vnni(self) -> bool:
        """Whether it is as fast as float only on processors with VNNI."""
        return False


def at_opset(storages: Sequence[Storage], opset: int) -> Storage:
    """The best storage that can be used at an opset.

    Args:
        storages: Candidates, the best first.
        opset: Opset of the model.

    Returns:
        The first that is possible; the last where none is.
    """
    return next((storage for storage in storages if storage.needs <= opset), storages[-1])
