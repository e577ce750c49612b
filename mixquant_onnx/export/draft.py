"""Rewritten copies of a model, and the bytes that they take in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto

from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.rewrite import Rewritten, rewrite, unchanged
from mixquant_onnx.model import files as model_io
from mixquant_onnx.model.external import is_large
from mixquant_onnx.model.scratch import Scratch
from mixquant_onnx.model.tensor_data import outside_nbytes
from mixquant_onnx.model.weights import LocatedWeight, weight_values
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme
from mixquant_onnx.quantization.weight import quantize_weight
from mixquant_onnx.runtime.session import RuntimeFailure, dequantized_at_every_run


def rewritten_copy(
    original: ModelProto,
    weights: Mapping[str, LocatedWeight],
    quantized: Mapping[str, QuantizedTensor],
    form: FormOptions,
    scratch: Scratch | None = None,
) -> tuple[ModelProto, Rewritten]:
    """A rewritten copy of `original`, whose `weights` those `quantized` are of, and what was done.

    Large tensors go to `scratch`, where there is one.

    A weight for a fused kernel that ONNX Runtime would dequantize at every run is folded instead. That happens where
    other fusions come first (MatMul + Add of a matrix becomes Gemm), or where a weight is shared.
    """
    folded: set[str] = set()
    while True:
        model = ModelProto()
        model.CopyFrom(original)
        if not quantized:
            return model, unchanged(model)
        done = rewrite(model, weights, quantized, form, folded, scratch)
        if not done.fused or is_large(original):
            return model, done
        try:
            slow = dequantized_at_every_run(model)
        except RuntimeFailure:
            return model, done
        late = {name for name, value in done.fused.items() if value in slow}
        if not late:
            return model, done
        folded |= late


def draft(
    original: ModelProto, sites: Mapping[str, LocatedWeight], schemes: Mapping[str, Scheme], form: FormOptions
) -> ModelProto:
    """A copy of `original` as large as the one that is written for a plan.

    The values of codes do not change the size, so they are those of the quickest method.

    Args:
        original: the float model.
        sites: its weights by name.
        schemes: of each weight that is quantized.
        form: how weights are written.
    """
    quantized = {}
    for name, scheme in schemes.items():
        located = sites[name]
        quick = quantize_weight(located.site, weight_values(located), replace(scheme, method="minmax"))
        quantized[name] = replace(quick, scheme=scheme)
    return rewritten_copy(original, sites, quantized, form)[0]


def draft_size(
    loaded: model_io.Loaded, sites: Mapping[str, LocatedWeight], schemes: Mapping[str, Scheme], form: FormOptions
) -> int:
    """Bytes of the file, external data included, in which the weights of `loaded` are stored as `schemes`."""
    return stored_size(draft(loaded.model, sites, schemes, form), loaded)


def stored_size(model: ModelProto, loaded: model_io.Loaded) -> int:
    """Bytes of `model` in a file, or in files where `loaded` was in several."""
    if not loaded.external and not is_large(model):
        return int(model.ByteSize()) + outside_nbytes(model)
    with tempfile.TemporaryDirectory() as folder:
        files = model_io.save(model, Path(folder) / "model.onnx", loaded.external, _LONG_NAME)
        return sum(file.stat().st_size for file in files)


_LONG_NAME = "n" * 64 + ".data"
"""In place of the data file's name, which each external tensor holds."""
