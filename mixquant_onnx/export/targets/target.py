"""The protocol of a runtime target, and what its implementations share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from mixquant_onnx.export.encodings.storage import BROADCASTING_FROM_OPSET, Storage
from mixquant_onnx.export.targets.releases import Releases
from mixquant_onnx.export.weight_in_model import WeightInModel

Offer = Callable[[WeightInModel], Storage | None]
"""One encoding's storage of a weight; None where it is no choice for it."""


class Target(Protocol):
    """A runtime target: a module of this package with these functions, or an object with these methods."""

    def storages_for(self, weight: WeightInModel) -> list[Storage]:
        """The storages that `weight` may take, the best first.

        The opset of the file is not known yet: the first one that it has is taken. The last one must be possible at
        every opset, and not be `fused`.
        """

    def opsets(self, storages: Collection[Storage], smaller_at: Callable[[int], bool]) -> list[int]:
        """Opsets to raise a model to, the best first.

        Args:
            storages: the best one of each weight.
            smaller_at: whether the file is smaller at an opset than at the model's own; also true of opsets that the
                model has, or cannot be raised to.
        """

    def oldest_runtime(self, storages: Collection[Storage], opset: int) -> Releases:
        """The oldest release that loads a file of `opset` with these storages, and the oldest that is not slower."""


def offered(offers: Iterable[Offer], weight: WeightInModel) -> list[Storage]:
    """What `offers` have for `weight`, in their order."""
    return [storage for storage in (offer(weight) for offer in offers) if storage is not None]


def best_opsets(storages: Iterable[Storage]) -> list[int]:
    """The opsets that `storages` are best at, the highest first, down to the first one that ONNX Runtime runs."""
    return sorted({storage.opset for storage in storages} | {BROADCASTING_FROM_OPSET}, reverse=True)
