"""Widths below 8 bits for which ONNX has types."""

from __future__ import annotations

from onnx import TensorProto

NATIVE_TYPES = {4: (TensorProto.UINT4, 21), 2: (TensorProto.UINT2, 25)}
"""Type and first opset of each width (DequantizeLinear-21 and -25)."""

NATIVE_WIDTHS = frozenset({8, *NATIVE_TYPES})
"""Widths of codes that need no unpacking."""
