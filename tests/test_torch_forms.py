"""Forms of operators in torch: computed as ONNX Runtime does, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Array, run, text
from onnx import helper

pytest.importorskip("torch")

import torch

from mixquant_onnx.quantization.reconstruction.torch_operators import Program, UnknownOperator

X = np.random.default_rng(3).standard_normal((2, 4, 6)).astype(np.float32)

COMPUTED = {
    "mean of all axes": (17, "y = ReduceMean <keepdims=0> (x)"),
    "mean of no axis": (18, "y = ReduceMean <noop_with_empty_axes=1> (x)"),
    "split by an attribute": (11, "p, y = Split <axis=1, split=[1, 3]> (x)"),
    "split by an input": (13, "s = Constant <value_ints=[1, 3]> () p, y = Split <axis=1> (x, s)"),
    "slice by attributes": (9, "y = Slice <starts=[1, 0], ends=[3, 5], axes=[1, 2]> (x)"),
    "slice by attributes of the first axes": (9, "y = Slice <starts=[0, 1], ends=[1, 3]> (x)"),
    "slice with steps": (13, "a = Constant <value_ints=[0]> () b = Constant <value_ints=[6]> () "
                             "c = Constant <value_ints=[2]> () y = Slice (x, a, b, c, c)"),
    "constant of one float": (13, "c = Constant <value_float=1.5> () y = Mul (x, c)"),
    "constant of floats": (13, "c = Constant <value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> () y = Mul (x, c)"),
    "constant of one integer": (13, "c = Constant <value_int=3> () f = Cast <to=1> (c) y = Mul (x, f)"),
}  # fmt: skip


def _in_torch(opset: int, nodes: str, value: Array = X) -> tuple[Array, Array]:
    """The same by torch and by ONNX Runtime."""
    model = text(f"g (float[2,4,6] x) => (float y) {{ {nodes} }}", opset=opset)
    (found,) = Program(model.graph.node).run({"x": torch.from_numpy(value)}, ["y"])
    return found.numpy(), run(model, {"x": value})[0]


@pytest.mark.parametrize("name", COMPUTED)
def test_a_form_is_computed_as_onnxruntime_does(name: str) -> None:
    found, wanted = _in_torch(*COMPUTED[name])
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ("y = MaxPool <kernel_shape=[2], ceil_mode=1> (x)", "max pool with ceil_mode"),
        ("y = MaxPool <kernel_shape=[2], dilations=[2]> (x)", "max pool with ceil_mode, dilations"),
        ("y = AveragePool <kernel_shape=[2], pads=[1, 1]> (x)", "avg pool with ceil_mode, dilations or uncounted pads"),
        ("p, y = Split <axis=1> (x)", "Split without sizes"),
        ("a = Constant <value_ints=[0, 0, 1, 0, 0, 1]> () y = Pad <mode=\"reflect\"> (x, a)", "Pad with a mode"),
        ("a = Constant <value_ints=[5]> () b = Constant <value_ints=[0]> () c = Constant <value_ints=[2]> () "
         "t = Constant <value_ints=[-1]> () y = Slice (x, a, b, c, t)", "Slice backwards"),
        ("c = Constant <value_string=\"a\"> () y = Identity (c)", "Constant of another kind"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_supported_is_named(nodes: str, told: str) -> None:
    model = text(f"g (float[2,4,6] x) => (float y) {{ {nodes} }}", opset=13)
    with pytest.raises(UnknownOperator, match=told):
        Program(model.graph.node).run({"x": torch.from_numpy(X)}, ["y"])


def test_pooling_that_counts_its_pads_is_computed() -> None:
    found, wanted = _in_torch(13, "y = AveragePool <kernel_shape=[2], pads=[1, 1], count_include_pad=1> (x)")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_node_whose_outputs_are_given_is_not_run() -> None:
    calls: list[str] = []

    def tap(name: str, value: Any) -> Any:
        calls.append(name)
        return value

    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]
    given = {"x": torch.from_numpy(X), "h": torch.from_numpy(2 * np.abs(X))}
    (found,) = Program(nodes).run(given, ["y"], {"h": tap, "y": tap})
    assert calls == ["y"]
    np.testing.assert_array_equal(found.numpy(), -2 * np.abs(X))
