"""Blocks found in the graph: residual, inverted residual, attention and MLP; and what is in none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.model.blocks import Block, find_blocks
from mixquant_onnx.model.weights import find

MODELS = Path(__file__).resolve().parent.parent / "models"


def network(nodes: list[NodeProto], weights: list[str], outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    """Square products of 16 channels from x [n, 16] to the outputs."""
    stored = [numpy_helper.from_array(np.eye(16, dtype=np.float32), name) for name in weights]
    value = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 16]) for n in ("x", *outputs)}
    graph = helper.make_graph(nodes, "g", [value["x"]], [value[name] for name in outputs], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def product(source: str, weight: str, target: str) -> NodeProto:
    return helper.make_node("MatMul", [source, weight], [target])


def blocks_of(model: ModelProto) -> list[Block]:
    return find_blocks(model, find(model, 1).sites)


def weights_of(model: ModelProto) -> list[tuple[str, ...]]:
    return [block.sites for block in blocks_of(model)]


def residual(source: str, a: str, b: str, target: str) -> list[NodeProto]:
    return [
        product(source, a, f"{target}.1"), helper.make_node("Relu", [f"{target}.1"], [f"{target}.2"]),
        product(f"{target}.2", b, f"{target}.3"), helper.make_node("Add", [source, f"{target}.3"], [f"{target}.4"]),
        helper.make_node("Relu", [f"{target}.4"], [target]),
    ]  # fmt: skip


def test_a_residual_block_ends_behind_its_add() -> None:
    nodes = [product("x", "first", "h"), *residual("h", "a", "b", "i"), *residual("i", "c", "d", "y")]
    model = network(nodes, ["first", "a", "b", "c", "d"])
    assert weights_of(model) == [("first",), ("a", "b"), ("c", "d")]
    assert [(block.inputs, block.exit) for block in blocks_of(model)] == [(("x",), "h"), (("h",), "i"), (("i",), "y")]


def test_a_chain_is_cut_into_threes_and_its_last_layer_joins_them() -> None:
    names = [f"w{k}" for k in range(7)]
    nodes = [product("x" if k == 0 else f"h{k}", n, "y" if k == 6 else f"h{k + 1}") for k, n in enumerate(names)]
    assert weights_of(network(nodes, names)) == [tuple(names[:3]), tuple(names[3:])]


def test_a_mask_that_no_weight_changes_may_go_around() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["mask"]),
        product("x", "a", "h"), helper.make_node("Mul", ["h", "mask"], ["i"]),
        *residual("i", "b", "c", "j"), helper.make_node("Mul", ["j", "mask"], ["y"]),
    ]  # fmt: skip
    assert weights_of(network(nodes, ["a", "b", "c"])) == [("a",), ("b", "c")]


def test_a_part_with_too_many_weights_and_a_weight_read_twice_are_in_none() -> None:
    names = [f"w{k}" for k in range(9)]
    nodes = [product("x" if k == 0 else f"h{k}", n, f"h{k + 1}") for k, n in enumerate(names)]
    long = network([product("x", "first", "s"), *nodes[:0], *_around("s", names)], ["first", *names])
    assert weights_of(long) == [("first",)]
    twice = network([product("x", "a", "h"), product("h", "b", "i"), product("i", "a", "y")], ["a", "b"])
    assert all("a" not in sites for sites in weights_of(twice))


def _around(source: str, names: list[str]) -> list[NodeProto]:
    """A shortcut around a chain of all `names`."""
    nodes = [product(source if k == 0 else f"k{k}", n, f"k{k + 1}") for k, n in enumerate(names)]
    return [*nodes, helper.make_node("Add", [source, f"k{len(names)}"], ["y"])]


def test_two_outputs_of_the_network_leave_one_exit_a_block() -> None:
    nodes = [product("x", "a", "h"), *residual("h", "b", "c", "y"), product("y", "d", "z")]
    found = blocks_of(network(nodes, ["a", "b", "c", "d"], ("y", "z")))
    assert [block.exit for block in found] == ["h", "y"] or [block.exit for block in found] == ["h", "y", "z"]
    assert ("b", "c") in [block.sites for block in found]


def test_an_output_from_the_middle_does_not_hide_the_blocks_behind_it() -> None:
    nodes = [*residual("x", "a", "b", "m"), *residual("m", "c", "d", "n"), *residual("n", "e", "f", "y")]
    found = blocks_of(network(nodes, list("abcdef"), ("m", "y")))
    assert [(block.exit, block.sites) for block in found] == [("m", ("a", "b")), ("n", ("c", "d")), ("y", ("e", "f"))]


def test_a_chain_ends_where_the_network_gives_a_value_out() -> None:
    nodes = [product("x", "a", "h"), product("h", "b", "m"), helper.make_node("Relu", ["m"], ["r"]),
             product("r", "c", "i"), product("i", "d", "y")]  # fmt: skip
    found = blocks_of(network(nodes, list("abcd"), ("m", "y")))
    assert [(block.exit, block.sites) for block in found] == [("m", ("a", "b")), ("y", ("c", "d"))]
    assert found[1].inputs == ("m",)


@pytest.mark.parametrize(
    ("name", "counts"), [("digits_cnn", [2, 3, 3, 3, 4]), ("digits_transformer", [1, 2, 2, 2, 2, 2, 3])]
)
def test_blocks_of_the_models_trained_here(name: str, counts: list[int]) -> None:
    """Residual and inverted residual blocks; attention (qkv, out) and MLP (up, down), each with its Add."""
    model = onnx.load(MODELS / name / "model.onnx")
    found = find_blocks(model, find(model, 256).sites)
    assert [len(block.sites) for block in found] == counts
    flat = [site for block in found for site in block.sites]
    assert len(flat) == len(set(flat)) == len(find(model, 256).sites)
    for before, after in pairwise(found):
        assert before.exit in after.inputs


def test_blocks_end_where_they_do_whichever_weights_are_wanted() -> None:
    model = onnx.load(MODELS / "digits_cnn" / "model.onnx")
    sites = find(model, 256).sites
    wanted = [name for name in sites if name.startswith("stage2")]
    found = find_blocks(model, sites, wanted)
    assert [sorted(block.sites) for block in found] == [sorted(wanted)]
    assert found[0].exit in [block.exit for block in find_blocks(model, sites)]
