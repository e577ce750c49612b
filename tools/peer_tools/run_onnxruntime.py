"""run_onnxruntime.py OPTIONS IN OUT: MatMulNBits in blocks, or dynamic 8 bits, or the one and then the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def _blocks(model: str, out: str, block: int, gather: bool) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    kinds: dict[str, Any] = {}
    if gather:
        kinds = {"op_types_to_quantize": ("MatMul", "Gather"), "quant_axes": (("MatMul", 0), ("Gather", 1))}
    quantizer = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=block, **kinds)
    quantizer.process()
    quantizer.model.save_model_to_file(out)


def main(options: dict[str, Any], model: str, out: str) -> None:
    if "block" in options:
        _blocks(model, out, options["block"], options.get("gather", False))
        model = out
    if "dynamic" in options:
        kind = QuantType.QUInt8 if options.get("unsigned") else QuantType.QInt8
        quantize_dynamic(onnx.load(model), Path(out), weight_type=kind, **options["dynamic"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3])
