"""A word on a written model that the package has no part in: codes times scales by NumPy, put into the file that was
read, and both files run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cases import feed_for
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mixquant_onnx.numerics.scheme import QuantizedTensor
from mixquant_onnx.result import RunResult

Array = NDArray[Any]

LEAST_DB = {"float32": 70.0, "float64": 70.0, "float16": 40.0, "bfloat16": 20.0}
"""As `verification.equivalence` has them."""

WORST_ERROR = 1.05
"""Largest norm of a weight's error, as a share of its own: zeros in its place would have 1."""


def values_of(q: QuantizedTensor) -> Array:
    """What codes mean: (code - zero point) x scale, each weight by the place of its row and block."""
    p, r, q_, s = q.layout.sizes(q.codes.shape)
    codes = q.codes.reshape(p, r, q_, s).astype(np.float64)
    scale, zero = (_spread(part, (p, r, q_, s), q) for part in (q.scale, q.zero_point))
    exact = ((codes - zero).astype(np.float32) * scale.astype(np.float32)).reshape(q.codes.shape)
    return exact.astype(helper.tensor_dtype_to_np_dtype(_TYPES[q.dtype]))


_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def _spread(part: Array, sizes: tuple[int, int, int, int], q: QuantizedTensor) -> Array:
    """One scale or zero point for each weight."""
    p, r, q_, s = sizes
    if part.size == 1:
        return np.full(sizes, part.reshape(-1)[0], np.float64)
    if part.shape == (p, 1, q_):
        return np.broadcast_to(part.reshape(p, 1, q_, 1).astype(np.float64), sizes)
    block = q.scheme.grid.block or r
    return part.reshape(p, -1, q_, s).astype(np.float64)[:, np.arange(r) // block]


def disagreement(source: Path, result: RunResult, seed: int = 0) -> tuple[str, str | None]:
    """What was compared, and what is wrong with the written model; None where nothing is."""
    reference = onnx.load(source)
    for name, q in result.quantized.items():
        value = values_of(q)
        stored = _stored(reference, result.sites[name].site.tensor)
        if len(stored) != 1:
            same = _loads(source) is not None or _loads(result.files[0]) is None
            told = None if same else "the written model does not load, though the float one does"
            return "loads; codes not compared: several tensors of one name", told
        old = stored[0].value
        own, other = old.astype(np.float64), value.astype(np.float64).reshape(old.shape)
        if not np.linalg.norm(own - other) <= WORST_ERROR * np.linalg.norm(own):
            return "codes", f"'{name}' ({q.scheme}) is farther from its float weight than zeros would be"
        stored[0].put(value.reshape(old.shape))
    limit = min((LEAST_DB[q.dtype] for q in result.quantized.values()), default=70.0)
    return _compared(reference, source, result.files[0], limit, seed)


def _compared(reference: ModelProto, source: Path, written: Path, limit: float, seed: int) -> tuple[str, str | None]:
    try:
        first = _session(reference.SerializeToString(), optimized=False)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        return f"ONNX Runtime does not load it ({type(error).__name__})", None
    try:
        other = _session(str(written), optimized=True)
    except Exception as error:  # as above
        return "loads", f"the written model does not load: {error!s:.200}"
    try:
        feed = feed_for(reference, seed)
        wanted, again = (first.run(None, feed) for _ in range(2))
    except Exception:  # as above; no input is known that it runs on
        return "loads; no input known", None
    if not closeness(wanted, again) >= limit:
        return "loads; its outputs are random", None
    try:
        got = other.run(None, feed)
    except Exception as error:  # as above
        return "runs", f"the written model does not run: {error!s:.200}"
    found = closeness(wanted, got)
    if found >= limit:
        return "compared", None
    if _unstable(reference, feed, limit) or closeness(wanted, _plain(written, feed)) >= limit:
        return "compared without optimizations: they alone change its outputs", None
    return "compared", f"{found:.1f} dB against its dequantized weights, at least {limit:g} expected"


def _unstable(reference: ModelProto, feed: Mapping[str, Array], limit: float) -> bool:
    """Whether ONNX Runtime's optimizations change what the reference itself computes."""
    one, other = (_session(reference.SerializeToString(), optimized=way).run(None, feed) for way in (False, True))
    return not closeness(one, other) >= limit


def _plain(written: Path, feed: Mapping[str, Array]) -> Sequence[Any]:
    return list(_session(str(written), optimized=False).run(None, feed))


def _loads(written: Path) -> str | None:
    try:
        _session(str(written), optimized=True)
    except Exception as error:  # as above
        return f"the written model does not load: {error!s:.200}"
    return None


def _session(source: str | bytes, optimized: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.set_seed(0)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def closeness(wanted: Sequence[Any], got: Sequence[Any]) -> float:
    """The lowest signal to noise ratio in dB over the outputs; minus infinity where shapes, types or NaN differ."""
    if len(wanted) != len(got):
        return -np.inf
    return min((_decibels(a, b) for a, b in zip(wanted, got, strict=True)), default=np.inf)


def _decibels(a: Any, b: Any) -> float:
    if isinstance(a, list):
        return closeness(a, b) if isinstance(b, list) else -np.inf
    if a is None or not isinstance(a, np.ndarray):
        return np.inf if a == b else -np.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return -np.inf
    if a.dtype.kind not in "fc" and a.dtype.name != "bfloat16":
        return np.inf if np.array_equal(a, b) else -np.inf
    one, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return -np.inf
    noise = float(np.sum((one[finite] - other[finite]) ** 2))
    if noise == 0:
        return np.inf
    return float(10 * np.log10(max(float(np.sum(one[finite] ** 2)), 1e-300) / noise))


class _Place:
    """Where a tensor is stored: an initializer, or the attribute of a Constant node."""

    def __init__(self, tensor: TensorProto | None, floats: AttributeProto | None = None) -> None:
        self._tensor, self._floats = tensor, floats

    @property
    def value(self) -> Array:
        """The stored weight."""
        if self._tensor is None:
            return np.array([] if self._floats is None else self._floats.floats, np.float32)
        return numpy_helper.to_array(self._tensor)

    def put(self, value: Array) -> None:
        """Store another one."""
        if self._tensor is not None:
            self._tensor.CopyFrom(numpy_helper.from_array(value, self._tensor.name))
        elif self._floats is not None:
            self._floats.floats[:] = value.reshape(-1).tolist()


def _stored(model: ModelProto, name: str) -> list[_Place]:
    found = [_Place(t) for graph in _graphs(model) for t in graph.initializer if t.name == name]
    for node in _nodes(model):
        if node.op_type == "Constant" and list(node.output) == [name]:
            for attribute in node.attribute:
                found.append(_Place(attribute.t) if attribute.HasField("t") else _Place(None, attribute))
    return found


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    yield model.graph
    for node in _nodes(model):
        yield from _inner(node)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    left = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while left:
        node = left.pop()
        yield node
        for graph in _inner(node):
            left += graph.node
