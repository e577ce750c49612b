"""The options of a file under their former name; see `export/options.py`."""

from __future__ import annotations

from mixquant_onnx.export.options import FUSED_PAYS_FROM, SMALL_INTS_FROM, FormOptions, Fused, Target

__all__ = ["FUSED_PAYS_FROM", "SMALL_INTS_FROM", "FormOptions", "Fused", "Target"]
