"""The oldest onnxruntime on which the forms of a file load, and on which they are not slower than float."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mixquant_onnx.encodings.forms import FUSED_PAYS_FROM

_OPSET_FROM = {19: "1.16", 20: "1.17", 21: "1.18", 22: "1.20", 23: "1.23", 24: "1.24", 25: "1.25"}
OLDEST_TRIED = "1.20"


@dataclass(frozen=True, kw_only=True, slots=True)
class Releases:
    loads_from: str
    not_slower_from: str


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


def releases_of(forms: Iterable[str], opset: int) -> Releases:
    """What tests/test_releases.py found, from the oldest release tried on."""
    used = set(forms)
    loads = max(OLDEST_TRIED, _OPSET_FROM.get(opset, OLDEST_TRIED))
    if any(form.startswith("MatMulNBits 4") for form in used):
        loads = max(loads, "1.23")
    if "DequantizeLinear" in used:
        return Releases(loads_from=loads, not_slower_from="none (--target qdq)")
    fused = any(form.startswith("MatMulNBits") for form in used)
    return Releases(loads_from=loads, not_slower_from=max(loads, _text(FUSED_PAYS_FROM)) if fused else loads)
