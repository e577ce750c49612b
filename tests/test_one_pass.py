"""A run finds the weights once and decodes each at most twice: in the search, and where it is quantized."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import text, weight
from conftest import ROOT
from onnx import ModelProto, TensorProto

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.stages import BudgetOptions, SearchOptions, SelectionOptions
from mixquant_onnx.export.opset import opset_of, raise_opset
from mixquant_onnx.model.constant_paths import Paths
from mixquant_onnx.model.scopes import fresh_names
from mixquant_onnx.model.weights import LocatedWeight, find, located_in, weight_values
from mixquant_onnx.planning.allocation import by_rule
from mixquant_onnx.planning.planned import fit_plan, sizes_of
from mixquant_onnx.planning.search import search
from mixquant_onnx.planning.table_file import TableFile

MODELS = ROOT / "models"

BRANCH = """p = Constant <value=float[1] {0}> () h = MatMul (x, p) b = Identity (v) h2 = Gemm <transB=1> (h, b)
    %s = local.f (h2)"""
INNER = f"""g (bool c, float[N,64] x, float[64,64] v) => (float[N,32] y) {{ y = If (c) <
    then_branch = t () => (float[N,32] r) {{ {BRANCH % "r"} }},
    else_branch = e () => (float[N,32] s) {{ {BRANCH % "s"} }}> }}"""
FUNCTION = """<domain: "local", opset_import: ["" : 11]>
    f (a) => (z) { w = Constant <value=float[1] {0}> () u = Relu (a) z = MatMul (u, w) }"""


def inner() -> ModelProto:
    """Weights of the main graph, of branches (each its own, under the same name), and of a function."""
    model = text(f"{INNER} {FUNCTION}", 11, imports=', "local" : 1', w=weight(64, 32), v=weight(64, 64, seed=1))
    for seed, branch in enumerate(model.graph.node[0].attribute):
        own = onnx.numpy_helper.from_array(weight(64, 64, seed=seed + 2))
        branch.g.node[0].attribute[0].t.CopyFrom(own)
    return model


@pytest.fixture(params=["digits_cnn", "digits_transformer", "inner"])
def model(request: pytest.FixtureRequest) -> ModelProto:
    return inner() if request.param == "inner" else onnx.load(MODELS / request.param / "model.onnx")


class Passes:
    """Counts decoded weights (by what they hold) and searches for weights, whoever asks for them."""

    def __init__(self, model: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
        names = {weight_values(s).tobytes(): name for name, s in find(model, 256).sites.items()}
        self.found, self.decoded = 0, Counter[str]()
        plain, plain_init = onnx.numpy_helper.to_array, Paths.__init__

        def to_array(tensor: TensorProto, *more: Any) -> np.ndarray:
            values = plain(tensor, *more)
            name = names.get(values.tobytes())
            self.decoded.update([] if name is None else [name])
            return values

        def init(paths: Paths, *more: Any) -> None:
            self.found += 1
            plain_init(paths, *more)

        monkeypatch.setattr(onnx.numpy_helper, "to_array", to_array)
        monkeypatch.setattr(Paths, "__init__", init)


@pytest.mark.parametrize("rows", ["proxies", "data-free"])
def test_a_run_decodes_a_weight_twice_and_finds_weights_once(
    model: ModelProto, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plan = tmp_path / "in.onnx", tmp_path / "plan.json"
    onnx.save(model, path)
    passes = Passes(model, monkeypatch)
    more = ["--data-free"] if rows == "data-free" else []
    assert main([str(path), str(tmp_path / "out.onnx"), "--qem", "2", "--no-verify", "--plan", str(plan), *more]) == 0
    assert passes.found == 1
    assert passes.decoded and set(passes.decoded.values()) == {2}


def test_a_replayed_plan_decodes_a_weight_twice_and_finds_weights_once(
    model: ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = mq.inspect(model, qem=2, data_free=True).plan
    passes = Passes(model, monkeypatch)
    result = mq.apply_plan(model, plan, data_free=True, verify=False)
    assert passes.found == 1
    assert passes.decoded == dict.fromkeys(result.plan.sites, 2)


def identities(weights: dict[str, LocatedWeight]) -> dict[str, tuple[Any, ...]]:
    """What each weight points to. Objects of protobuf are the same as long as somebody holds them."""
    return {
        name: (
            one.site,
            one.source.name,
            id(one.source.scope.body),
            id(one.source.node),
            one.source.tensor.SerializeToString() if one.source.floats is not None else id(one.source.tensor),
            id(one.source.floats),
            [(id(r.scope.body), id(r.node), r.index, len(r.steps)) for r in one.readers],
        )
        for name, one in weights.items()
    }


@pytest.mark.parametrize("opset", [None, 21])
def test_weights_are_located_in_a_copy_as_they_would_be_found_there(model: ModelProto, opset: int | None) -> None:
    _with_value_floats(model)
    weights = find(model, 1).sites
    copy = ModelProto()
    copy.CopyFrom(model)
    if opset is not None:
        raise_opset(copy, opset, fresh_names(copy))
        assert opset_of(copy) >= opset
    located, anew = located_in(copy, weights), find(copy, 1).sites
    assert list(located) == list(weights)
    assert identities(located) == identities(anew)


def _with_value_floats(model: ModelProto) -> None:
    """Adds a weight that is stored in an attribute, without a tensor of its own."""
    nodes = [
        onnx.helper.make_node("Constant", [], ["floats"], value_floats=weight(16).tolist()),
        onnx.helper.make_node("Constant", [], ["shape"], value_ints=[4, 4]),
        onnx.helper.make_node("Reshape", ["floats", "shape"], ["square"]),
        onnx.helper.make_node("MatMul", ["square", "square"], ["product"]),
    ]
    model.graph.node.extend(nodes)
    model.opset_import[0].version = max(model.opset_import[0].version, 12)


@pytest.mark.parametrize("least", [1, 64, 1000, 1 << 20])
def test_the_larger_weights_are_those_that_are_found_at_that_size(model: ModelProto, least: int) -> None:
    wanted, got = find(model, least), find(model, 1).at_least(least)
    assert (list(got.sites), got.skipped, got.elements) == (list(wanted.sites), wanted.skipped, wanted.elements)


@pytest.mark.parametrize("size", [1.0, 1e-7])
@pytest.mark.parametrize("source", ["search", "plan", "table"])
def test_scales_that_float16_cannot_hold_are_known_without_the_weight(source: str, size: float) -> None:
    model = text("g (float[N,64] x, float[64,32] w) => (float[N,32] y) { y = MatMul (x, w) }",
                 w=weight(64, 32) * np.float32(size))  # fmt: skip
    planned = mq.inspect(model, bits=[4], data_free=True)
    loaded, searched = planned.loaded, planned
    result = mq.quantize(model, bits=[4], data_free=True, verify=False)
    if source == "plan":
        searched = fit_plan(loaded, planned.plan, 256, planned.form)
    if source == "table":
        kept, options = TableFile(), SearchOptions(bits=(4,), method="minmax")
        read = [search(loaded, SelectionOptions(), options, planned.form, kept=kept) for _ in range(2)][1]
        searched = by_rule(read, BudgetOptions())
    assert {q.dtype for q in _scales(result.model)} == {np.dtype(np.float16 if size == 1 else np.float32)}
    grown = sizes_of(searched).growth(searched.plan.sites)
    assert abs(grown - (result.nbytes_after - result.nbytes_before)) <= 4


def _scales(model: ModelProto) -> list[np.ndarray]:
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return [array for array in arrays if array.dtype in (np.float16, np.float32)]
