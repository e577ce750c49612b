"""Hints of a run: what else would help this model."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import text, weight
from onnx import ModelProto

from mixquant_onnx import run
from mixquant_onnx.config.config import config_of
from mixquant_onnx.model.files import as_loaded
from mixquant_onnx.model.graph_text import text_nbytes
from mixquant_onnx.report.inputs import Run
from mixquant_onnx.report.sections import hints


def told(model: ModelProto, detail: bool = False, **options: Any) -> list[str]:
    loaded = as_loaded(model)
    planned, result = run.run(loaded, config_of(data_free=True, method="mse", **options), None, "it")
    found = hints.data(Run(planned=planned, result=result, detail=detail))
    return [] if found is None else found["hints"]


def network(names: int = 1) -> ModelProto:
    """A small weight beside a large one of signs, which codes hold without an error."""
    odd, signs = "odd" * names, "signs" * names
    stored: dict[str, Any] = {odd: weight(64, 64), signs: np.sign(weight(64, 640, seed=1))}
    return text(
        f"""g (float[N,64] x, float[64,64] {odd}, float[64,640] {signs}) => (float[N,640] y)
        {{ h = MatMul (x, {odd}) y = MatMul (h, {signs}) }}""",
        **stored,
    )  # fmt: skip


def test_the_weight_that_costs_most_is_named() -> None:
    found = told(network(), detail=True, bits=3)
    assert any("'odd' is 100% of the estimated loss" in line and "--plan" in line for line in found)
    assert not any("estimated loss" in line for line in told(network(), bits=3))


def test_long_names_are_told() -> None:
    assert any("names, notes and declared shapes take" in line for line in told(network(names=80), bits=4))
    assert not any("names, notes" in line for line in told(network(), bits=4))


def test_text_of_all_graphs_is_counted() -> None:
    model = text("g (float[N,4] x) => (float[N,4] y) { [one] h = Relu (x) y = Abs (h) }")
    before = text_nbytes(model)
    model.graph.node[0].name += "1234"
    model.graph.node[1].doc_string = "six by"
    assert text_nbytes(model) == before + 10
