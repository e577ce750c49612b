"""run_nncf.py OPTIONS IN OUT: compress_weights without data; blocks that do not fit a layer are made smaller."""

from __future__ import annotations

import json
import sys
from typing import Any

import nncf  # type: ignore[import-not-found]
import onnx
from nncf.quantization import advanced_parameters as advanced  # type: ignore[import-not-found]


def main(options: dict[str, Any], model: str, out: str) -> None:
    options["mode"] = nncf.CompressWeightsMode[options["mode"]]
    if options["group_size"]:
        fallback = advanced.GroupSizeFallbackMode.ADJUST
        options["advanced_parameters"] = advanced.AdvancedCompressionParameters(group_size_fallback_mode=fallback)
    onnx.save(nncf.compress_weights(onnx.load(model), **options), out)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3])
