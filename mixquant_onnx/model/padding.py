"""Padding of sliding windows (Conv, pools)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def window_padding(at: Mapping[str, Any], sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis.

    Args:
        at: Attributes of the node: auto_pad, pads, strides, dilations.
        sizes: Spatial sizes of the input.
        kernel: Spatial sizes of the window.

    Returns:
        Two lists with one number per axis: zeros before, zeros after.

    Source:
        ONNX Conv-11: auto_pad; SAME gives ceil(size / stride) outputs, the odd zero after (UPPER) or before (LOWER).
    """
    rank = len(kernel)
    mode = at.get("auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = [int(v) for v in at.get("pads", [0] * (2 * rank))]
        return pads[:rank], pads[rank:]
    strides, dilations = at.get("strides", [1] * rank), at.get("dilations", [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    totals = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in zip(sizes, strides, spans, strict=True)]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if mode == "SAME_UPPER" else (large, small)
