"""Valid models at random, by hypothesis: chains of layers whose weights are stored and passed in many ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
ROWS = 3
WIDTHS = (4, 8, 16, 24, 33, 48, 64, 64, 96, 128)
VALUES = (
    "normal",
    "normal",
    "normal",
    "zeros",
    "constant",
    "outlier",
    "tiny",
    "denormal",
    "large",
    "a zero row",
    "NaN",
)
STEPS = (
    "MatMul", "Gemm", "Gemm transB", "on the left", "Transpose", "Cast", "Identity", "Constant", "Conv", "If", "Loop",
    "function", "function with its weight", "shared", "LSTM", "unused", "an output", "two readers",
)  # fmt: skip
NAMES = ("w", "w", "layer/0/weight", "größe ünï", "a b'c\"d", "x" * 300, "w.codes", "w\n2", "::", "%s{0}")


@dataclass(kw_only=True)
class _Chain:
    """A graph as it grows: `value` is the last one, [ROWS, width]."""

    random: np.random.Generator
    dtype: str
    names: str
    value: str = "x"
    width: int = 8
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    functions: list[FunctionProto] = field(default_factory=list)
    squares: dict[int, str] = field(default_factory=dict)
    count: int = 0
    opset: int = 17

    def fresh(self, stem: str = "v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def tensor(self, shape: tuple[int, ...], kind: str, dtype: str | None = None) -> TensorProto:
        value = values(self.random, shape, kind).astype(np.dtype(dtype or self.dtype))
        return numpy_helper.from_array(value, self.fresh(self.names))

    def store(self, shape: tuple[int, ...], kind: str, dtype: str | None = None) -> str:
        tensor = self.tensor(shape, kind, dtype)
        self.stored.append(tensor)
        return str(tensor.name)

    def integers(self, *numbers: int) -> str:
        self.stored.append(numpy_helper.from_array(np.array(numbers, np.int64), self.fresh("shape")))
        return str(self.stored[-1].name)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = self.fresh()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


def values(random: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
    """Weights of a kind."""
    made = random.standard_normal(shape) / np.sqrt(max(shape[0], 1))
    scale = {"tiny": 1e-20, "denormal": 1e-42, "large": 1e4, "zeros": 0.0}.get(kind, 1.0)
    if kind == "constant":
        return np.full(shape, 0.25, np.float64)
    if kind in ("outlier", "NaN"):
        made.reshape(-1)[-1] = 50.0 if kind == "outlier" else np.nan
    if kind == "a zero row":
        made[0] = 0
    return np.asarray(made * scale)


def _product(chain: _Chain, weight: str, width: int) -> None:
    chain.value, chain.width = chain.add("MatMul", [chain.value, weight]), width


def _branch(chain: _Chain, width: int, kind: str) -> GraphProto:
    tensor, output = chain.tensor((chain.width, width), kind), chain.fresh("branch")
    info = helper.make_tensor_value_info(output, _onnx_type(chain.dtype), None)
    node = helper.make_node("MatMul", [chain.value, tensor.name], [output])
    return helper.make_graph([node], chain.fresh("g"), [], [info], [tensor])


def _loop(chain: _Chain, kind: str) -> str:
    kept, inner, out = chain.store((chain.width, chain.width), kind), chain.fresh("h"), chain.fresh("h")
    trip, go, stays = chain.fresh("i"), chain.fresh("c"), chain.fresh("c")
    one = _onnx_type(chain.dtype)
    body = helper.make_graph(
        [
            helper.make_node("Identity", [go], [stays]),
            helper.make_node("MatMul", [inner, kept], [f"{out}_p"]),
            helper.make_node("Tanh", [f"{out}_p"], [out]),
        ],
        chain.fresh("g"),
        [
            helper.make_tensor_value_info(trip, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            helper.make_tensor_value_info(inner, one, [ROWS, chain.width]),
        ],
        [helper.make_tensor_value_info(stays, TensorProto.BOOL, []), helper.make_tensor_value_info(out, one, None)],
    )
    chain.stored.append(numpy_helper.from_array(np.array(2, np.int64), chain.fresh("n")))
    return chain.add("Loop", [str(chain.stored[-1].name), "", chain.value], body=body)


def _function(chain: _Chain, weight: str, width: int, kind: str, inside: bool) -> str:
    name, opsets = chain.fresh("F"), [helper.make_opsetid("", chain.opset)]
    nodes = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    if inside:
        value = values(chain.random, (chain.width, width), kind).astype(np.dtype(chain.dtype))
        nodes.insert(0, helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(value)))
    takes = ["a"] if inside else ["a", "b"]
    chain.functions.append(helper.make_function("own", name, takes, ["c"], nodes, opsets))
    return chain.add(name, [chain.value] if inside else [chain.value, weight], domain="own")


def _step(chain: _Chain, step: str, width: int, kind: str) -> None:
    before = chain.width
    if step == "Gemm":
        product = chain.add("Gemm", [chain.value, chain.store((before, width), kind), chain.store((width,), "normal")])
        chain.value, chain.width = product, width
    elif step == "Gemm transB":
        chain.value = chain.add("Gemm", [chain.value, chain.store((width, before), kind)], transB=1, alpha=0.5)
        chain.width = width
    elif step == "on the left":
        chain.value = chain.add("MatMul", [chain.store((ROWS, ROWS), kind), chain.value])
    elif step == "Transpose":
        _product(chain, chain.add("Transpose", [chain.store((width, before), kind)], perm=[1, 0]), width)
    elif step == "Cast":
        half = chain.store((before, width), kind, "float16" if chain.dtype != "float16" else "float32")
        _product(chain, chain.add("Cast", [half], to=_onnx_type(chain.dtype)), width)
    elif step == "Identity":
        _product(chain, chain.add("Identity", [chain.store((before, width), kind)]), width)
    elif step == "Constant":
        _product(chain, chain.add("Constant", [], value=chain.tensor((before, width), kind)), width)
    elif step == "Conv":
        _conv(chain, width, kind)
    elif step == "If":
        graphs = {f"{way}_branch": _branch(chain, width, kind) for way in ("then", "else")}
        chain.value, chain.width = chain.add("If", ["flag"], **graphs), width
    elif step == "Loop":
        chain.value = _loop(chain, kind)
    elif step.startswith("function"):
        inside = step.endswith("weight")
        weight = "" if inside else chain.store((before, width), kind)
        chain.value, chain.width = _function(chain, weight, width, kind, inside), width
    elif step == "shared":
        _product(chain, chain.squares.setdefault(before, chain.store((before, before), kind)), before)
    elif step == "LSTM":
        _lstm(chain, width, kind)
    else:
        _read_elsewhere(chain, step, width, kind)


def _conv(chain: _Chain, width: int, kind: str) -> None:
    image = chain.add("Reshape", [chain.value, chain.integers(ROWS, chain.width, 1)])
    made = chain.add("Conv", [image, chain.store((width, chain.width, 1), kind), chain.store((width,), "normal")])
    chain.value, chain.width = chain.add("Reshape", [made, chain.integers(ROWS, width)]), width


def _lstm(chain: _Chain, width: int, kind: str) -> None:
    shapes = [(1, 4 * width, chain.width), (1, 4 * width, width)]
    line = chain.add("Reshape", [chain.value, chain.integers(ROWS, 1, chain.width)])
    made = chain.add("LSTM", [line, *(chain.store(shape, kind) for shape in shapes)], hidden_size=width)
    chain.value, chain.width = chain.add("Reshape", [made, chain.integers(ROWS, width)]), width


def _read_elsewhere(chain: _Chain, step: str, width: int, kind: str) -> None:
    weight = chain.store((chain.width, width), kind)
    if step == "unused":
        chain.store((width, width), kind)
    elif step == "an output":
        chain.outputs.append(chain.add("Identity", [weight]))
    elif step == "two readers":
        chain.outputs.append(chain.add("MatMul", [chain.value, weight]))
    _product(chain, weight, width)


def _onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@st.composite
def chains(draw: st.DrawFn) -> ModelProto:
    """A model of 1 to 5 layers."""
    chain = _Chain(
        random=np.random.default_rng(draw(st.integers(0, 1 << 30))),
        dtype=draw(st.sampled_from(["float32", "float32", "float32", "float64", "float16"])),
        names=draw(st.sampled_from(NAMES)),
        width=draw(st.sampled_from(WIDTHS)),
        opset=draw(st.sampled_from([11, 13, 14, 17, 21, 23])),
    )
    first, of_any_rows = chain.width, True
    for _ in range(draw(st.integers(1, 5))):
        step = draw(st.sampled_from(STEPS))
        of_any_rows = of_any_rows and step not in ("on the left", "Conv", "Loop", "LSTM")
        _step(chain, step, draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(VALUES)))
        if draw(st.booleans()):
            chain.value = chain.add(draw(st.sampled_from(["Relu", "Tanh", "Sigmoid"])), [chain.value])
    return _model(chain, first, of_any_rows and draw(st.booleans()))


def _model(chain: _Chain, first: int, any_rows: bool) -> ModelProto:
    one = _onnx_type(chain.dtype)
    inputs = [helper.make_tensor_value_info("x", one, ["N" if any_rows else ROWS, first])]
    inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info(name, one, None) for name in [chain.value, *chain.outputs]]
    graph = helper.make_graph(chain.nodes, "g", inputs, outputs, chain.stored)
    imports = [helper.make_opsetid("", chain.opset)]
    imports += [helper.make_opsetid("own", 1)] if chain.functions else []
    ir = 10 if chain.opset >= 21 else 8
    return helper.make_model(graph, functions=chain.functions, opset_imports=imports, ir_version=ir)
