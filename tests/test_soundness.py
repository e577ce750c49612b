"""Models that are not sound are refused in one line when they are read, or when something fails on them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Fails, classifier, quantize, text, weight
from onnx import ModelProto, TensorProto, helper

import mixquant_onnx as mq
from mixquant_onnx.model.soundness import check_sound, invalid
from mixquant_onnx.numerics import parts


def without_values() -> ModelProto:
    model = classifier()
    model.graph.initializer[0].ClearField("raw_data")
    return model


def negative() -> ModelProto:
    model = classifier()
    model.graph.initializer[0].dims[:] = [-64, -64]
    return model


def inside() -> ModelProto:
    """A tensor in a branch that is cut short."""
    graph = """g (bool c, float[N,64] x) => (float[N,32] y) { w = If (c) <
        then_branch = t () => (float[64,32] p) { p = Constant <value=float[1] {0}> () },
        else_branch = e () => (float[64,32] q) { q = Constant <value=float[1] {0}> () }> y = MatMul (x, w) }"""
    model = text(graph, p=weight(64, 32), q=weight(64, 32))
    tensor = model.graph.node[0].attribute[0].g.node[0].attribute[0].t
    tensor.raw_data = tensor.raw_data[:-4]
    return model


def circle() -> ModelProto:
    model = classifier()
    model.graph.node.append(helper.make_node("Identity", ["b"], ["a"]))
    model.graph.node.append(helper.make_node("Identity", ["a"], ["b"]))
    return model


def calling(*names: str, twice: bool = False) -> ModelProto:
    """A function for each name, which calls the next; the last calls one that may be among them."""
    model, opsets = classifier(), [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, inner in pairwise(names):
        calls = [helper.make_node(inner, ["a"], ["b"], domain="own")]
        calls += [helper.make_node(inner, ["b"], ["c"], domain="own")] if twice else []
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], calls, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node(names[0], ["y"], ["z"], domain="own"))
    return model


def nameless() -> ModelProto:
    """A name that is not UTF-8."""
    data = classifier().SerializeToString().replace(b"first", b"fir\xfft")
    return onnx.load_from_string(data)


def without_output() -> ModelProto:
    model = classifier()
    del model.graph.node[1].output[:]
    return model


CHAIN = tuple(f"F{k}" for k in range(30))
UNSOUND = {
    "no values": (without_values(), "'v' is cut short"),
    "negative sizes": (negative(), "'v' is cut short"),
    "a tensor inside": (inside(), "is cut short"),
    "a circle of values": (circle(), "a value depends on itself"),
    "a function that calls itself": (calling("F", "F"), "a function of the model calls itself"),
    "two that call each other": (calling("F", "G", "F"), "a function of the model calls itself"),
    "calls that double": (calling(*CHAIN, "Relu", twice=True), "call each other too often"),
    "a name that is no text": (nameless(), "names that are not UTF-8"),
    "a node without output": (without_output(), "a node gives nothing out"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_what_is_not_sound_is_refused(case: str, tmp_path: Path, output: Path, fails: Fails) -> None:
    model, told = UNSOUND[case]
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert told in fails(3, tmp_path / "in.onnx", output, "--data-free")
    with pytest.raises(mq.ModelError, match="the model: "):
        mq.quantize(model)


def test_sound_models_are_let_through() -> None:
    """Nodes in any order, functions that share one, and a branch whose result has the name of what it becomes."""
    model = classifier()
    first = model.graph.node.pop(0)
    model.graph.node.append(first)
    check_sound(model, "unsorted")
    branches = """g (bool c, float[N,64] x, float[64,64] w) => (float[N,64] y) { y = If (c) <
        then_branch = t () => (float[N,64] y) { y = MatMul (x, w) },
        else_branch = e () => (float[N,64] z) { z = Identity (x) }> }"""
    check_sound(text(branches, w=weight(64, 64)), "one name twice")
    check_sound(calling(*CHAIN, "Relu"), "a chain")


def _fails(*_: object) -> None:
    raise KeyError("nothing")


def test_an_error_on_a_model_that_is_not_valid_is_told_as_that(
    tmp_path: Path, output: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    assert invalid(model) is None
    model.graph.node[0].attribute.add(name="to", type=onnx.AttributeProto.INT, i=1)
    assert "Unrecognized attribute" in (invalid(model) or "")
    monkeypatch.setattr("mixquant_onnx.run.open_job", _fails)
    onnx.save(model, tmp_path / "in.onnx")
    assert "is not valid ONNX (Unrecognized attribute" in fails(3, tmp_path / "in.onnx", output)
    with pytest.raises(KeyError, match="nothing"):
        mq.quantize(classifier())


def test_names_in_messages_are_shown_in_one_line(tmp_path: Path, output: Path, fails: Fails) -> None:
    model = classifier()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "a\nb\x1b[31m"
    model.graph.initializer[0].raw_data = b""
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert r"tensor 'a\nb\x1b[31m' is cut short" in fails(3, tmp_path / "in.onnx", output)


def test_no_input_is_generated_that_takes_all_memory(tmp_path: Path, output: Path) -> None:
    for size in (1 << 27, 1 << 45):
        model = classifier()
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
        result = mq.quantize(model, output)
        assert result.verification is not None and result.verification.samples == 0
        assert "no generated input runs" in result.verification.notes[0]


def test_an_opset_that_nobody_knows(tmp_path: Path, output: Path, fails: Fails) -> None:
    model = classifier()
    model.opset_import[0].domain = "elsewhere"
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert "older than ONNX Runtime runs" in fails(3, tmp_path / "in.onnx", output, "--data-free")


def test_parts_of_a_large_vocabulary_are_found_in_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sort of all slices, not one for each of them."""
    sorted_: list[int] = []
    plain = np.sort

    def counted(values: np.ndarray) -> np.ndarray:
        sorted_.append(len(values))
        return plain(values)

    monkeypatch.setattr(np, "sort", counted)
    values = np.random.default_rng(0).standard_normal((20, 4096)).astype(np.float32)
    assert len(parts.parts_of([values])) == 1
    assert len(sorted_) == 1
    values[:, :1000] *= 1e4
    assert [len(part.index) for part in parts.parts_of([values])] == [1000, 3096]


def test_quantize_takes_what_it_took_before() -> None:
    model = classifier()
    model.graph.initializer[1].ClearField("raw_data")
    model.graph.initializer[1].float_data.extend(weight(64, 10).reshape(-1).tolist())
    assert model.graph.initializer[1].data_type == TensorProto.FLOAT
    quantize(model)


def test_the_name_of_external_data_may_be_one_that_no_system_takes(tmp_path: Path, output: Path, fails: Fails) -> None:
    onnx.save(classifier(), tmp_path / "in.onnx", save_as_external_data=True, location="d", size_threshold=16)
    model = onnx.load(tmp_path / "in.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "x" * 5000
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert "xxx...' is missing" in fails(3, tmp_path / "in.onnx", output)


def test_an_input_of_no_known_type(tmp_path: Path, output: Path, fails: Fails) -> None:
    model = classifier()
    model.graph.input[0].type.tensor_type.elem_type = 0
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert "input 'x' is of a type that this onnx does not know" in fails(3, tmp_path / "in.onnx", output)
