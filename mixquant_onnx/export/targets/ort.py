"""ONNX Runtime on a CPU (`--target ort`): each weight in a form that runs at least as fast as float."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mixquant_onnx.export.encodings import folded
from mixquant_onnx.export.encodings.storage import SMALL_INTS_FROM_OPSET, Storage
from mixquant_onnx.export.targets import fused_kernels, integer_kernels, lstm_kernels, packed_kernels
from mixquant_onnx.export.targets.releases import Releases, releases_of
from mixquant_onnx.export.targets.target import Offer, best_opsets, offered
from mixquant_onnx.export.weight_in_model import WeightInModel

ENCODINGS: tuple[Offer, ...] = (
    integer_kernels.offer,
    lstm_kernels.offer,
    packed_kernels.offer,
    fused_kernels.offer,
    folded.offer,
)
"""The encodings of this target, the best first, one row each."""


def storages_for(weight: WeightInModel) -> list[Storage]:
    """See `Target`: a fused kernel where one is worthwhile, else folded at load."""
    return offered(ENCODINGS, weight)


def opsets(storages: Collection[Storage], smaller_at: Callable[[int], bool]) -> list[int]:
    """See `Target`: the best opsets of the storages.

    Opset 14 only has smaller decoders: a model is raised to it only where the file shrinks.
    """
    wanted = best_opsets(storages)
    if wanted[0] == SMALL_INTS_FROM_OPSET and not smaller_at(SMALL_INTS_FROM_OPSET):
        return wanted[1:]
    return wanted


def oldest_runtime(storages: Collection[Storage], opset: int) -> Releases:
    """See `Target`: releases of onnxruntime."""
    return releases_of(storages, opset)
