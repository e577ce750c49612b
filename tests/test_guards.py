"""Forms in the file that some readers cannot take: what is stored then is right in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import pytest
from cases import agreement, ops, text, weight
from onnx import ModelProto, TensorProto

import mixquant_onnx as mq
from mixquant_onnx.config.stages import FormOptions
from mixquant_onnx.export.targets import fused_kernels
from mixquant_onnx.export.weight_in_model import ModelFacts, WeightInModel
from mixquant_onnx.model.weights import find
from mixquant_onnx.numerics.granularity import Granularity
from mixquant_onnx.numerics.scheme import Scheme

SCHEME = Scheme(bits=8, grid=Granularity(per="channel"))


def fused(model: ModelProto) -> ModelProto:
    return mq.quantize(model, bits=[8], fused="always", data_free=True, verify=False).model


def four_levels(columns: int) -> ModelProto:
    """One MatMul with a weight [64, columns] of 4 levels, in the first opset with an ONNX type for 2 bits."""
    return text(
        f"g (float[N,64] x, float[64,{columns}] w) => (float[N,{columns}] y) {{ y = MatMul (x, w) }}",
        opset=25, ir=11, w=(weight(64, columns) * 8).round().clip(-1, 2),
    )  # fmt: skip


@pytest.mark.parametrize(("columns", "stored"), [(32, True), (33, False), (34, False)])
def test_two_bit_weights_that_the_runtime_would_multiply_wrongly_are_stored_otherwise(
    columns: int, stored: bool
) -> None:
    model = four_levels(columns)
    options: dict[str, Any] = {"target": "qdq", "bits": [2], "granularity": "block:16"}
    made = mq.quantize(model, **options, data_free=True, verify=False).model
    assert any(tensor.data_type == TensorProto.UINT2 for tensor in made.graph.initializer) == stored
    assert agreement(model, made) > 40


@pytest.mark.parametrize(
    ("attributes", "plain"),
    [("transB=0", True), ("beta=1.0", True), ("beta=0.25", False), ("alpha=0.5", False), ("transA=1", False)],
)
def test_a_gemm_is_fused_only_where_it_is_a_product_and_a_sum(attributes: str, plain: bool) -> None:
    shape = "512,N" if "transA" in attributes else "N,512"
    model = text(
        f"""g (float[{shape}] x, float[512,384] w, float[384] c) => (float[N,384] y)
        {{ y = Gemm <{attributes}> (x, w, c) }}""",
        w=weight(512, 384), c=weight(384) * 100,
    )  # fmt: skip
    made = fused(model)
    assert ("Gemm" not in ops(made)) == plain
    assert agreement(model, made) > 32


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_readers_of_a_weight_and_of_its_transpose_are_not_fused_alike(first: int, second: int) -> None:
    model = text(
        f"""g (float[N,512] x, float[512,512] w, float[512] c) => (float[N,512] y, float[N,512] z)
        {{ y = Gemm <transB={first}> (x, w, c) z = Gemm <transB={second}> (x, w, c) }}""",
        w=weight(512, 512), c=weight(512),
    )  # fmt: skip
    sites = find(model, 256).sites
    facts = ModelFacts(model, sites)
    options = FormOptions(fused="always")
    kernel = fused_kernels.offer(WeightInModel(located=sites["w"], scheme=SCHEME, options=options, facts=facts))
    assert (kernel is not None) == (first == second)
    assert agreement(model, fused(model)) > 32
