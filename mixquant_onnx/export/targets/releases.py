"""The oldest onnxruntime that loads a file, and the oldest on which it is not slower than float."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mixquant_onnx.config.parsing import OLDEST_ORT
from mixquant_onnx.export.encodings.storage import Release, Storage

_OPSET_FROM: dict[int, Release] = {23: (1, 23), 24: (1, 24), 25: (1, 25), 26: (1, 26)}
"""The first release that loads an opset (docs/research/releases.md); `OLDEST_ORT` has those before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Releases:
    """Releases as text for summaries.

    Attributes:
        loads_from: The oldest release that loads the file.
        not_slower_from: The oldest release on which it is not slower than float.
    """

    loads_from: str
    not_slower_from: str


def releases_of(storages: Collection[Storage], opset: int) -> Releases:
    """The releases for a file.

    Args:
        storages: How its weights are stored.
        opset: Its opset.

    Returns:
        The releases.

    Source:
        Results of the tests on releases from 1.20 on (docs/research/releases.md).
    """
    loads = max(OLDEST_ORT, _OPSET_FROM.get(opset, OLDEST_ORT), *(s.loads_from(opset) for s in storages))
    paying = [storage.not_slower_from() for storage in storages]
    known = [release for release in paying if release is not None]
    if len(known) < len(paying):
        return Releases(loads_from=_text(loads), not_slower_from="no release")
    with_vnni = " (with VNNI)" if any(storage.needs_vnni for storage in storages) else ""
    return Releases(loads_from=_text(loads), not_slower_from=_text(max([loads, *known])) + with_vnni)


def _text(release: Release) -> str:
    return f"{release[0]}.{release[1]}"
