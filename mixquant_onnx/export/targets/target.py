"""The protocol of a runtime target, and functions that its implementations share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from mixquant_onnx.export.encodings.storage import BROADCASTING_FROM_OPSET, Storage
from mixquant_onnx.export.targets.releases import Releases
from mixquant_onnx.export.weight_in_model import WeightInModel

Offer = Callable[[WeightInModel], Storage | None]
"""The storage of a weight in one encoding; None where the encoding does not suit the weight."""


class Target(Protocol):
    """A runtime target: a module of this package with these functions, or an object with these methods."""

    def storages_for(self, weight: WeightInModel) -> list[Storage]:
        """The possible storages of a weight.

        Args:
            weight: The weight.

        Returns:
            Storages, the best first. The opset of the file is not known yet: the first that the opset supports is used.
            The last one must be possible at every opset, and not be `fused`.
        """

    def opsets(self, storages: Collection[Storage], smaller_at: Callable[[int], bool]) -> list[int]:
        """Opsets to raise a model to.

        Args:
            storages: The best one of each weight.
            smaller_at: Whether the file is smaller at an opset than at the model's own; also true of opsets that the
                model has, or cannot be raised to.

        Returns:
            Opsets, the best first.
        """

    def oldest_runtime(self, storages: Collection[Storage], opset: int) -> Releases:
        """The oldest release that loads a file, and the oldest that is not slower than float.

        Args:
            storages: How its weights are stored.
            opset: Its opset.

        Returns:
            The releases.
        """


def offered(offers: Iterable[Offer], weight: WeightInModel) -> list[Storage]:
    """The storages of a weight in several encodings.

    Args:
        offers: Encodings, the best first.
        weight: The weight.

    Returns:
        Storages in the same order.
    """
    return [storage for storage in (offer(weight) for offer in offers) if storage is not None]


def best_opsets(storages: Iterable[Storage]) -> list[int]:
    """The opsets at which storages have their best form.

    Args:
        storages: Storages of the weights of a file.

    Returns:
        Opsets, the highest first, down to the first that ONNX Runtime runs.
    """
    return sorted({storage.opset for storage in storages} | {BROADCASTING_FROM_OPSET}, reverse=True)
