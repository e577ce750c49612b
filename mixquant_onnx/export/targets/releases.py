"""The oldest onnxruntime on which the forms of a file load, and on which they are not slower than float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixquant_onnx.config.parsing import FUSED_PAYS_FROM, SMALL_INTS_FROM
from mixquant_onnx.config.stages import FormOptions

_OPSET_FROM = {23: (1, 23), 24: (1, 24), 25: (1, 25), 26: (1, 26)}
OLDEST_TRIED = (1, 20)
CAST_TO_UINT4_FROM = (1, 23)
_VNNI_ONLY = " (with VNNI)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Releases:
    loads_from: str
    not_slower_from: str


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


def releases_of(forms: Mapping[str, str], bits: Mapping[str, int], opset: int, options: FormOptions) -> Releases:
    """What the tests found on releases from 1.20 on (docs/releases.md); `forms` and `bits` by site."""
    loads = max(OLDEST_TRIED, _OPSET_FROM.get(opset, OLDEST_TRIED))
    if options.small_ints and opset >= 14 and any(width < 8 for width in bits.values()):
        loads = max(loads, SMALL_INTS_FROM)
    used = set(forms.values())
    if "MatMulNBits 4" in used:
        loads = max(loads, CAST_TO_UINT4_FROM)
    if "DequantizeLinear" in used:
        return Releases(loads_from=_text(loads), not_slower_from="no release (--target qdq)")
    fused = any(form.startswith("MatMulNBits") for form in used)
    pays = _text(max(loads, FUSED_PAYS_FROM) if fused else loads)
    with_vnni = fused and options.fused == "always"
    return Releases(loads_from=_text(loads), not_slower_from=pays + (_VNNI_ONLY if with_vnni else ""))
