"""Models as text, inputs for them, and ONNX Runtime's word on what they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import settings
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

import mixquant_onnx as mq
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.data.moments import SecondMoments
from mixquant_onnx.model.scopes import walk
from mixquant_onnx.model.weights import WeightTensor
from mixquant_onnx.numerics.granularity import Granularity, WeightAxes
from mixquant_onnx.numerics.rows import effective_grid, params_shape
from mixquant_onnx.numerics.scheme import QuantizedTensor, Scheme

Array = NDArray[Any]
Fails = Callable[..., str]
"""The fixture `fails`."""

PROPERTIES = settings(deadline=None, derandomize=True, database=None, max_examples=60)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

LAYOUTS = {
    "Conv": (WeightAxes(p=1, r=3), (6, 4, 3, 3)),
    "MatMul": (WeightAxes(r=1, q=1), (24, 7)),
    "MatMul of rank 3": (WeightAxes(p=1, r=1, q=1), (3, 13, 5)),
    "Gemm transB": (WeightAxes(p=1, r=1), (7, 24)),
    "ConvTranspose": (WeightAxes(r=1, q=1, s=2), (9, 4, 3, 2)),
    "LSTM": (WeightAxes(p=2, r=1), (2, 12, 7)),
    "odd": (WeightAxes(r=1, q=1), (13, 5)),
    "one weight": (WeightAxes(p=1, r=1), (1, 1)),
    "whole": (WeightAxes(r=2), (6, 11)),
}


def weight(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Normal weights; rows and columns of different size, so that a wrong axis shows."""
    random = np.random.default_rng([seed, *shape])
    values = random.standard_normal(shape) * 0.1
    for axis, size in enumerate(shape):
        spread = np.linspace(0.8, 1.25, size)
        values *= spread.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return values.astype(dtype)


def site(values: Array, layout: WeightAxes) -> WeightTensor:
    return WeightTensor(
        name="w", tensor="w", scope="", shape=values.shape, dtype=values.dtype.name, layout=layout, uses=()
    )


def quantized(
    shape: tuple[int, ...], layout: WeightAxes, bits: int, grid: Granularity, symmetric: bool = False,
    dtype: str = "float32",
    scale: type = np.float16,
) -> QuantizedTensor:  # fmt: skip
    """Codes, scales and zero points at random: nothing that a method would prefer."""
    random = np.random.default_rng([bits, *shape])
    params = params_shape(shape, layout, effective_grid(shape, layout, grid))
    zero = np.full((1, 1, 1), 1 << (bits - 1)) if symmetric else random.integers(0, 1 << bits, params)
    return QuantizedTensor(
        codes=random.integers(0, 1 << bits, shape).astype(np.uint8),
        scale=random.uniform(0.01, 0.1, params).astype(scale),
        zero_point=zero.astype(np.uint8),
        scheme=Scheme(bits=bits, grid=grid, symmetric=symmetric),
        layout=layout,
        dtype=dtype,
    )


def text(graph: str, opset: int = 17, ir: int = 8, imports: str = "", **weights: Array) -> ModelProto:
    """A model from ONNX text. `weights` take the place of graph inputs, or of Constant nodes, of that name."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>\n{graph}')
    for name, value in weights.items():
        put(model, name, value)
    return model


def put(model: ModelProto, name: str, value: Array) -> None:
    """Give the graph input, or the Constant nodes, called `name` this value."""
    tensor = numpy_helper.from_array(value, name)
    for declared in model.graph.input:
        if declared.name == name:
            model.graph.input.remove(declared)
            model.graph.initializer.append(tensor)
            return
    constants = [n for n in nodes(model) if n.op_type == "Constant" and n.output[0] == name]
    assert constants, f"nothing in the text is called {name}"
    for node in constants:
        node.attribute[0].t.CopyFrom(tensor)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of every scope."""
    for scope in walk(model):
        yield from scope.body.node


def ops(model: ModelProto) -> list[str]:
    """Operators of the main graph in order."""
    return [node.op_type for node in model.graph.node]


def float_tensors(model: ModelProto, at_least: int = 256) -> set[str]:
    """Names of the float constants of some size, in any scope, without the scales that quantization adds."""
    found = set()
    for scope in walk(model):
        stored = list(scope.body.initializer) if isinstance(scope.body, GraphProto) else []
        for node in scope.body.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("t"):
                    tensor = TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    stored.append(tensor)
        found |= {t.name for t in stored if t.data_type in FLOATS and np.prod(t.dims, dtype=int) >= at_least}
    return {name for name in found if not name.endswith(".scale")}


def readers(model: ModelProto, name: str) -> list[NodeProto]:
    return [node for node in nodes(model) if name in node.input]


def feed_for(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Random inputs; unknown sizes are 5, integers below 8, booleans true."""
    random = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    feed: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value or 5 for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype == np.bool_:
            feed[value.name] = np.ones(shape, np.bool_)
        elif np.issubdtype(dtype, np.integer):
            feed[value.name] = random.integers(0, 8, shape).astype(dtype)
        else:
            feed[value.name] = random.standard_normal(shape).astype(dtype)
    return feed


def run(model: ModelProto | str, feed: Mapping[str, Array]) -> list[Array]:
    """Outputs in ONNX Runtime, without rounding of activations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    source = model.SerializeToString() if isinstance(model, ModelProto) else model
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def optimized(model: ModelProto, folder: Path) -> list[str]:
    """The operators of all scopes that ONNX Runtime runs, under its default options."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in nodes(onnx.load(folder / "optimized.onnx"))]


def decibels(reference: Array, other: Array) -> float:
    """Signal to noise, infinite where equal."""
    a, b = reference.astype(np.float64), other.astype(np.float64)
    assert a.shape == b.shape
    assert np.isfinite(a).all() and np.isfinite(b).all() and a.any()
    noise = float(np.sum((a - b) ** 2))
    return float("inf") if noise == 0 else 10 * float(np.log10(np.sum(a**2) / noise))


def agreement(model: ModelProto, other: ModelProto | str, seed: int = 0) -> float:
    """The lowest signal to noise ratio over the outputs, `model` being right."""
    feed = feed_for(model, seed)
    wanted, got = run(model, feed), run(other, feed)
    assert len(wanted) == len(got)
    return min(decibels(a, b) for a, b in zip(wanted, got, strict=True))


def classifier(batch: str = "N") -> ModelProto:
    """Two layers, 10 classes."""
    return text(
        f"""g (float[{batch},64] x, float[64,64] v, float[64,10] w) => (float[{batch},10] y)
        {{ [first] h = MatMul (x, v) [second] y = MatMul (h, w) }}""",
        v=weight(64, 64), w=weight(64, 10),
    )  # fmt: skip


def files_under(folder: Path) -> dict[Path, bytes]:
    """What is in `folder`, subfolders included."""
    return {path: path.read_bytes() if path.is_file() else b"a folder" for path in folder.rglob("*")}


def quantize(model: ModelProto, **options: Any) -> mq.RunResult:
    """`mq.quantize`, checked from outside: valid ONNX, and close to float where the weights have 8 bits."""
    result = mq.quantize(model, **{"bits": [8], "data_free": True, **options})
    onnx.checker.check_model(result.model)
    assert agreement(model, result.model) > 32
    return result


def seconds(calibration: Calibration, names: Sequence[str]) -> dict[str, SecondMoments]:
    """Second moments of the inputs of weights in the float model, where they can be read."""
    found = calibration.observe(names, frozenset(names))
    return {name: one for name, one in found if isinstance(one, SecondMoments)}
